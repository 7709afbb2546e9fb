"""The parts of tiny pipelines, random and made from configurations."""

from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.factory import text_config, tokenizer

clip_tokenizer = tokenizer


def clip(width: int = 16, projection: int = 16) -> CLIPTextModel:
    return CLIPTextModel(text_config(width, projection))


def clip_with_projection(width: int = 16, projection: int = 16) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(text_config(width, projection))


def t5_tokenizer() -> T5Tokenizer:
    """Single letters, in the manner of sentencepiece."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.printable[:95]]
    return T5Tokenizer(vocab=[(piece, -float(n)) for n, piece in enumerate(pieces)], extra_ids=0)


def t5(width: int = 32, kind: Any = T5EncoderModel, config: Any = T5Config) -> Any:
    return kind(
        config(
            vocab_size=128, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def autoencoder(channels: int = 16, **config: Any) -> AutoencoderKL:
    """Two pixels a cell along a side, with a shift and a scale."""
    return AutoencoderKL(
        **{
            "block_out_channels": (8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": channels,
            "sample_size": 32,
            "scaling_factor": 1.5,
            "shift_factor": 0.06,
            **config,
        }
    )


def flow_scheduler(**config: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **config})


def shaken(pipeline: Any, network: str = "transformer") -> Any:
    """The pipeline, in which no weight of the network is zero: every input then has an effect."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in getattr(pipeline, network).parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
