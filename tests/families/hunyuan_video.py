from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from transformers import CLIPTextModel, LlamaConfig, LlamaModel, T5Tokenizer

from tests.factory import text_config
from tests.families import parts

EMBEDS_GUIDANCE = True


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 4, 4),
    )
    return parts.shaken(
        HunyuanVideoPipeline(
            transformer=network,
            scheduler=parts.flow_scheduler(shift=7.0),
            vae=autoencoder(),
            text_encoder=llama(),
            tokenizer=tokenizer(),
            text_encoder_2=clip(),
            tokenizer_2=parts.clip_tokenizer(),
        )
    )


def llama() -> LlamaModel:
    return LlamaModel(
        LlamaConfig(
            vocab_size=256, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=512,
        )
    )  # fmt: skip


def clip() -> CLIPTextModel:
    config = text_config(16, 16)
    config.max_position_embeddings = 77  # the pipeline pads to it, whatever the tokenizer says
    return CLIPTextModel(config)


def tokenizer() -> T5Tokenizer:
    """Single letters, and the words of the pipeline's template: of this the first 95 tokens are cut
    away, and what follows has to fit into 256."""
    letters = ["<pad>", "</s>", "<unk>", "▁", *string.printable[:95]]
    words = [word for word in DEFAULT_PROMPT_TEMPLATE["template"].split() if "<" not in word]
    words += string.ascii_lowercase  # the space before a prompt is none of its tokens
    pieces = [(letter, -10.0) for letter in letters]
    pieces += [(f"▁{word}", -1.0) for word in dict.fromkeys(words)]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def autoencoder() -> AutoencoderKLHunyuanVideo:
    return AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )
