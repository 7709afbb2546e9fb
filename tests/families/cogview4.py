from __future__ import annotations

from typing import Any

import torch
from diffusers import CogView4Pipeline, CogView4Transformer2DModel
from transformers import GlmConfig, GlmModel

from tests.families import parts


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = CogView4Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=8,
        condition_dim=4,
    )
    encoder = GlmModel(
        GlmConfig(
            vocab_size=128, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, pad_token_id=0,
        )
    )  # fmt: skip
    scheduler = parts.flow_scheduler(
        use_dynamic_shifting=True, time_shift_type="linear", base_shift=0.25, max_shift=0.75
    )
    pipeline = parts.shaken(
        CogView4Pipeline(
            transformer=network,
            scheduler=scheduler,
            vae=parts.autoencoder(4, shift_factor=None),
            text_encoder=encoder,
            tokenizer=parts.gemma_tokenizer(),
        )
    )
    with torch.no_grad():
        network.patch_embed.text_proj.weight.mul_(20)  # beside padding the prompt is to matter
    return pipeline
