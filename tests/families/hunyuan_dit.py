from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
from transformers import BertConfig, BertModel, BertTokenizer

from tests.families import parts

SIDE = 64  # its pipeline takes eight pixels a cell for granted
ORIGINAL = 1024  # the side that its pipeline says pictures were of


def bert_tokenizer() -> BertTokenizer:
    """Single letters."""
    letters = [f"{begin}{one}" for begin in ("", "##") for one in string.ascii_lowercase]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    return BertTokenizer(vocab={piece: n for n, piece in enumerate(pieces)})


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = HunyuanDiT2DModel(
        sample_size=8,
        in_channels=4,
        patch_size=2,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=2,
        hidden_size=16,
        mlp_ratio=1.0,
        cross_attention_dim=16,
        cross_attention_dim_t5=8,
        pooled_projection_dim=8,
    )
    encoder = BertModel(
        BertConfig(
            vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2,
        )
    )  # fmt: skip
    return parts.shaken(
        HunyuanDiTPipeline(
            transformer=network,
            scheduler=DDPMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear"),
            vae=parts.autoencoder_of_eight(shift_factor=None),
            text_encoder=encoder,
            tokenizer=bert_tokenizer(),
            text_encoder_2=parts.t5(width=8),
            tokenizer_2=parts.t5_tokenizer(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )
