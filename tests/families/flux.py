from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from tests.families import parts

EMBEDS_GUIDANCE = True


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=not distilled,
        axes_dims_rope=(4, 4, 8),
    )
    return parts.shaken(
        FluxPipeline(
            transformer=network,
            scheduler=parts.flow_scheduler(use_dynamic_shifting=not distilled),
            vae=parts.autoencoder(),
            text_encoder=parts.clip(),
            tokenizer=parts.clip_tokenizer(),
            text_encoder_2=parts.t5(),
            tokenizer_2=parts.t5_tokenizer(),
        )
    )


def unpacked(sampled: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return FluxPipeline._unpack_latents(sampled, 2 * shape[1], 2 * shape[2], 2)
