from __future__ import annotations

from typing import Any

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

from tests.families import parts


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        out_channels=16,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return parts.shaken(
        StableDiffusion3Pipeline(
            transformer=network,
            scheduler=parts.flow_scheduler(),
            vae=parts.autoencoder(),
            text_encoder=parts.clip_with_projection(),
            tokenizer=parts.clip_tokenizer(),
            text_encoder_2=parts.clip_with_projection(),
            tokenizer_2=parts.clip_tokenizer(),
            text_encoder_3=parts.t5(),
            tokenizer_3=parts.t5_tokenizer(),
        )
    )
