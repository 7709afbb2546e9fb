"""The parts of tiny pipelines, random and made from configurations."""

from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
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


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """Single bytes, and the marks of a conversation."""
    symbols = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {symbol: index for index, symbol in enumerate(symbols)}
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHAT,
    )


def qwen3(kind: Any, layers: int, width: int = 16) -> Any:
    return kind(
        Qwen3Config(
            vocab_size=260, hidden_size=width, intermediate_size=16, num_hidden_layers=layers,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True,
        )
    )  # fmt: skip


def qwen_vl(width: int = 16) -> Qwen2_5_VLForConditionalGeneration:
    text = {
        "vocab_size": 260, "hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
        "out_hidden_size": width, "fullatt_block_indexes": [0],
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )


def qwen_autoencoder() -> AutoencoderKLQwenImage:
    """Two pixels a cell along a side, four channels with a mean and a deviation each."""
    return AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, -0.4], latents_std=[0.5, 1.0, 1.5, 2.0],
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
