from __future__ import annotations

from typing import Any

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel

from tests.families import parts
from tests.families.flux import unpacked

__all__ = ["tiny", "unpacked"]


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = ChromaTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=16,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return parts.shaken(
        ChromaPipeline(
            transformer=network,
            scheduler=parts.flow_scheduler(use_dynamic_shifting=True),
            vae=parts.autoencoder(),
            text_encoder=parts.t5(),
            tokenizer=parts.t5_tokenizer(),
        )
    )
