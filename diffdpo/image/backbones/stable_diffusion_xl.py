"""SDXL: two text encoders, a pooled embedding, and the image's size and crop as a condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.latent_unet import LatentUNet
from diffdpo.image.pictures.pixels import CroppedImage


class StableDiffusionXL(LatentUNet):
    """A larger UNet, conditioned on size and crop as well (Podell et al. 2023)."""

    pipeline_class = StableDiffusionXLPipeline
    # Whether pictures get a watermark would otherwise depend on what else is installed.
    load_options: ClassVar = {"add_watermarker": False}
    encoder_names: ClassVar = ("vae", "text_encoder", "text_encoder_2")
    undoes_statistics: ClassVar = True

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """The last hidden layer but one of both encoders, and the second one's pooled output."""
        tokens, _, pooled, _ = self.embed(prompts)
        return {"tokens_NLD": tokens, "pooled_ND": pooled}

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        return {
            "tokens_NLD": torch.empty(1, 2, cls.text_width(text_configs)),
            "pooled_ND": torch.empty(1, text_configs["text_encoder_2"].projection_dim),
            "time_ids_N6": torch.empty(1, 6),
        }

    def size_condition(self, images: Sequence[CroppedImage], resolution: int) -> Condition:
        """(height, width, top, left, target height, target width) of each image (section 2.2)."""
        rows = [
            (*image.original_size, *image.crop_top_left, resolution, resolution) for image in images
        ]
        return {"time_ids_N6": torch.tensor(rows, dtype=torch.float32)}

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        added = {"text_embeds": condition["pooled_ND"], "time_ids": condition["time_ids_N6"]}
        tokens = condition["tokens_NLD"]
        return network(
            noisy, timestep_N, encoder_hidden_states=tokens, added_cond_kwargs=added
        ).sample
