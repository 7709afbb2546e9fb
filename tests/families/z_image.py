from __future__ import annotations

from typing import Any

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen3Model

from tests.families import parts


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 32, 32],
    )
    return parts.shaken(
        ZImagePipeline(
            transformer=network,
            scheduler=parts.flow_scheduler(shift=6.0),
            vae=parts.autoencoder(),
            text_encoder=parts.qwen3(Qwen3Model, layers=2),
            tokenizer=parts.qwen_tokenizer(),
        )
    )
