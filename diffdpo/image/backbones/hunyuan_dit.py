"""HunyuanDiT: a transformer with long skips under BERT and mT5, which predicts v."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import HunyuanDiT2DModel, HunyuanDiTPipeline
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from torch import Tensor, nn

from diffdpo.errors import UserError
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.grid_transformer import GridTransformer, without_variance
from diffdpo.image.pictures.pixels import CroppedImage
from diffdpo.reference import unwrapped

LENGTHS = {"tokenizer": 77, "tokenizer_2": 256}  # written out in the pipeline's call
BASE = 64  # latent cells along a side, to which positions are resized


class HunyuanDiT(GridTransformer):
    """Latent diffusion (Li et al. 2024, arXiv 2405.08748). In the place of padding its network puts
    vectors of its own, so that padding stays with a prompt."""

    pipeline_class = HunyuanDiTPipeline
    network_class = HunyuanDiT2DModel
    load_options: ClassVar = {
        **{"safety_checker": None, "feature_extractor": None},
        "requires_safety_checker": False,
    }
    encoder_names: ClassVar = ("vae", "text_encoder", "text_encoder_2")
    is_flow: ClassVar = False
    undone: ClassVar = ()
    assumed_factor: ClassVar = 8
    side_multiple: ClassVar = 16
    may_give_variance: ClassVar = True
    bins_resolutions: ClassVar = True

    def encode(self, prompts: Sequence[str], negative: bool = False) -> Condition:
        condition: Condition = {}
        for index, length in enumerate(LENGTHS.values()):
            arguments = self.encode_arguments(prompts, negative=False)
            arguments |= {"max_sequence_length": length, "text_encoder_index": index}
            tokens, _, real, _ = self.pipeline.encode_prompt(**arguments)
            condition |= {f"tokens_{index}_NLD": tokens, f"real_{index}_NL": real.bool()}
        return condition

    def prompt_limits(self) -> dict[str, int]:
        return LENGTHS

    def size_condition(self, images: Sequence[CroppedImage], resolution: int) -> Condition:
        """(height, width, target height, target width, top, left) of each image."""
        rows = [
            (*image.original_size, resolution, resolution, *image.crop_top_left) for image in images
        ]
        return {"sizes_N6": torch.tensor(rows, dtype=torch.float32)}

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        super().check_network(config, vae_config, text_configs)
        if not config.learn_sigma:
            raise UserError(
                "the transformer gives no variance (learn_sigma), and its pipeline takes half of"
                " the output for one"
            )

    @classmethod
    def channels_given(cls, config: Any) -> int:
        return config.in_channels * (2 if config.learn_sigma else 1)

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        widths = text_configs["text_encoder"].hidden_size, text_configs["text_encoder_2"].d_model
        condition = {"sizes_N6": torch.empty(1, 6)}
        for index, length in enumerate(LENGTHS.values()):
            condition[f"tokens_{index}_NLD"] = torch.empty(1, length, widths[index])
            condition[f"real_{index}_NL"] = torch.empty(1, length, dtype=torch.bool)
        return condition

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        config = unwrapped(network).config
        output = network(
            noisy,
            timestep_N.to(noisy.dtype),
            encoder_hidden_states=condition["tokens_0_NLD"],
            text_embedding_mask=condition["real_0_NL"],
            encoder_hidden_states_t5=condition["tokens_1_NLD"],
            text_embedding_mask_t5=condition["real_1_NL"],
            image_meta_size=condition["sizes_N6"],
            style=torch.zeros_like(timestep_N, dtype=torch.long),
            image_rotary_emb=rotary(noisy, config.patch_size, config.attention_head_dim),
            return_dict=False,
        )[0]
        return without_variance(output, noisy)


def rotary(noisy: Tensor, patch: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the positions of patches, as the pipeline makes them."""
    height, across = (side // patch for side in noisy.shape[-2:])
    region = get_resize_crop_region_for_grid((height, across), BASE // patch)
    return get_2d_rotary_pos_embed(
        width, region, (height, across), device=noisy.device, output_type="pt"
    )
