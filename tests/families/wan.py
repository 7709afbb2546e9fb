from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import UMT5Config, UMT5EncoderModel

from tests.families import parts


def tiny(distilled: bool = False, **settings: Any) -> Any:
    torch.manual_seed(0)
    network = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    )
    return parts.shaken(
        WanPipeline(
            transformer=network,
            scheduler=flow_scheduler(),
            vae=autoencoder(),
            text_encoder=parts.t5(kind=UMT5EncoderModel, config=UMT5Config),
            tokenizer=parts.t5_tokenizer(),
            **settings,
        )
    )


def autoencoder(**config: Any) -> AutoencoderKLWan:
    return AutoencoderKLWan(
        **{"base_dim": 3, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1, **config}
    )


def flow_scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
