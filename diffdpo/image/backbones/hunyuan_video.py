"""HunyuanVideo: a transformer over clips and text, Llama, and one CLIP encoder's pooled vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from torch import Tensor, nn

from diffdpo.errors import UserError
from diffdpo.image.backbones.conditions import MASK, Condition
from diffdpo.image.backbones.video import VideoTransformer
from diffdpo.reference import unwrapped


class HunyuanVideo(VideoTransformer):
    """Rectified flow over clips (Kong et al. 2024, arXiv 2412.03603). The guidance scale is an
    input of the network, as in Flux; it is trained at 1."""

    pipeline_class = HunyuanVideoPipeline
    network_class = HunyuanVideoTransformer3DModel
    vae_class = AutoencoderKLHunyuanVideo
    encoder_names: ClassVar = ("vae", "text_encoder", "text_encoder_2")
    # Both streams, that of the text as well.
    lora_targets: ClassVar = (
        *("to_k", "to_q", "to_v", "to_out.0"),
        *("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out"),
    )
    prompt_outputs: ClassVar = {"tokens_NLD": 0, "pooled_ND": 1, MASK: 2}
    native: ClassVar = 720

    @property
    def pixel_factor(self) -> int:
        return self.vae_config.spatial_compression_ratio

    def before_prompt(self) -> str:
        before: str = self.call_defaults()["prompt_template"]["template"].split("{}")[0]
        return before

    def prompt_limits(self) -> dict[str, int]:
        # The template's tokens are read and then dropped.
        limits = super().prompt_limits()
        dropped = self.call_defaults()["prompt_template"]["crop_start"]
        return {**limits, "tokenizer": limits["tokenizer"] + dropped}

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        if config.image_condition_type is not None:
            raise UserError("the transformer begins from a picture, which is not supported")
        super().check_network(config, vae_config, text_configs)

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        pooled = {"pooled_ND": torch.empty(1, text_configs["text_encoder_2"].hidden_size)}
        return {**super().blank_condition(config, text_configs), **pooled}

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        embeds = unwrapped(network).config.guidance_embeds
        # Here the caller multiplies the guidance by 1000, and in Flux the network.
        guidance = torch.full_like(timestep_N, 1000 * cls.guidance_off) if embeds else None
        return network(
            hidden_states=noisy,
            timestep=1000 * timestep_N,
            guidance=guidance,
            encoder_hidden_states=condition["tokens_NLD"],
            encoder_attention_mask=condition[MASK].to(noisy.dtype),
            pooled_projections=condition["pooled_ND"],
            return_dict=False,
        )[0]
