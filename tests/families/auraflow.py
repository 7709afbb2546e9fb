from __future__ import annotations

from typing import Any

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
from transformers import UMT5Config, UMT5EncoderModel

from tests.families import parts


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = AuraFlowTransformer2DModel(
        sample_size=16,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pos_embed_max_size=100,
    )
    pipeline = parts.shaken(
        AuraFlowPipeline(
            transformer=network,
            scheduler=parts.flow_scheduler(),
            vae=parts.autoencoder(4, shift_factor=None),
            text_encoder=parts.t5(kind=UMT5EncoderModel, config=UMT5Config),
            tokenizer=parts.t5_tokenizer(),
        )
    )
    # Of its 256 tokens all but a few are padding: those few are to matter.
    block = network.joint_transformer_blocks[0]
    with torch.no_grad():
        block.attn.add_v_proj.weight.mul_(10)
        block.norm1.linear.weight.mul_(10)
    return pipeline
