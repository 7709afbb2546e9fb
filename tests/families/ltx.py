from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel

from tests.families import parts

SIDE = 64


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=2,
        caption_channels=32,
    )
    return parts.shaken(
        LTXPipeline(
            transformer=network,
            scheduler=parts.flow_scheduler(
                use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1
            ),
            vae=autoencoder(),
            text_encoder=parts.t5(),
            tokenizer=parts.t5_tokenizer(),
        )
    )


def autoencoder() -> AutoencoderKLLTXVideo:
    vae = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
    )
    vae.latents_mean += torch.linspace(-1, 1, 8)
    vae.latents_std += torch.linspace(0.5, 1.5, 8)
    return vae


def unpacked(sampled: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return LTXPipeline._unpack_latents(sampled, *shape[1:])
