from __future__ import annotations

from typing import Any

import torch
from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

from tests.families import parts

SIDE = 64  # its pipeline takes eight pixels a cell for granted


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 16, 16),
        cap_feat_dim=16,
    )
    return parts.shaken(
        Lumina2Pipeline(
            transformer=network,
            scheduler=parts.flow_scheduler(),
            vae=parts.autoencoder_of_eight(),
            text_encoder=parts.gemma(),
            tokenizer=parts.gemma_tokenizer(),
        )
    )


def rescaled(led: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """The pipeline brings every line of a guided prediction back to its length without guidance."""
    return led * given.norm(dim=-1, keepdim=True) / led.norm(dim=-1, keepdim=True)
