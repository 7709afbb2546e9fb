from __future__ import annotations

from typing import Any

import torch
from diffusers import Krea2Pipeline, Krea2Transformer2DModel

from tests.families import parts
from tests.families.qwen_image import unpacked

__all__ = ["tiny", "unpacked"]


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )
    return parts.shaken(
        Krea2Pipeline(
            transformer=network,
            scheduler=parts.flow_scheduler(use_dynamic_shifting=True, max_image_seq_len=6400),
            vae=parts.qwen_autoencoder(),
            text_encoder=parts.qwen3_vl(layers=2),
            tokenizer=parts.qwen_tokenizer(),
            text_encoder_select_layers=(1, 2),
            is_distilled=distilled,
        )
    )
