"""Stable Diffusion 3 and 3.5: a transformer over picture and text, two CLIP encoders and T5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn

from diffdpo.image.backbones.base import square
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.latent_transformer import LatentTransformer


class StableDiffusion3(LatentTransformer):
    """Rectified flow (Esser et al. 2024, arXiv 2403.03206)."""

    pipeline_class = StableDiffusion3Pipeline
    network_class = SD3Transformer2DModel
    load_options: ClassVar = {"image_encoder": None, "feature_extractor": None}
    encoder_names: ClassVar = ("vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    optional_encoders: ClassVar = ("text_encoder_3",)  # without it the pipeline puts zeros
    # Both streams, that of the text as well.
    lora_targets: ClassVar = (
        *("to_k", "to_q", "to_v", "to_out.0"),
        *("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out"),
    )
    prompt_outputs: ClassVar = {"tokens_NLD": 0, "pooled_ND": 2}
    negative_outputs: ClassVar = {"tokens_NLD": 1, "pooled_ND": 3}

    @property
    def native_resolution(self) -> int:
        return square(self.network.config.sample_size, self.pixel_factor)

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        clips = [one for name, one in text_configs.items() if name != "text_encoder_3"]
        third = text_configs.get("text_encoder_3")
        # The embeddings of CLIP are padded to the width of T5's or, without it, to the network's.
        width = third.d_model if third else config.joint_attention_dim
        pooled = sum(clip.projection_dim for clip in clips)
        return {"tokens_NLD": torch.empty(1, 2, width), "pooled_ND": torch.empty(1, pooled)}

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        return network(
            hidden_states=noisy,
            timestep=1000 * timestep_N,
            encoder_hidden_states=condition["tokens_NLD"],
            pooled_projections=condition["pooled_ND"],
            return_dict=False,
        )[0]
