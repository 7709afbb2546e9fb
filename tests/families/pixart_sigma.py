from __future__ import annotations

from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

from tests.families import parts


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = PixArtTransformer2DModel(
        sample_size=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        caption_channels=32,
        use_additional_conditions=False,
    )
    return parts.shaken(
        PixArtSigmaPipeline(
            transformer=network,
            scheduler=DPMSolverMultistepScheduler(beta_end=0.02, beta_start=0.0001),
            vae=parts.autoencoder(4, shift_factor=None),
            text_encoder=parts.t5(),
            tokenizer=parts.t5_tokenizer(),
        )
    )
