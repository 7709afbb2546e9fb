from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)

from tests.families import parts


def tiny(distilled: bool = False, rotary: bool = False) -> Any:
    torch.manual_seed(0)
    network = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=32,
        num_layers=2,
        sample_width=6,
        sample_height=4,
        sample_frames=9,
        use_rotary_positional_embeddings=rotary,
    )
    return parts.shaken(
        CogVideoXPipeline(
            transformer=network,
            scheduler=scheduler(),
            vae=autoencoder(),
            text_encoder=parts.t5(),
            tokenizer=parts.t5_tokenizer(),
        )
    )


def scheduler() -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        snr_shift_scale=3.0,
    )


def autoencoder() -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX(
        latent_channels=4,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )


def unpacked(sampled: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return sampled.transpose(1, 2)  # frames before channels
