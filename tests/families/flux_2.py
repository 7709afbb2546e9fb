from __future__ import annotations

from typing import Any

import torch
from diffusers import Flux2Pipeline

from tests.families import parts
from tests.families.parts import flux_2_unpacked as unpacked

__all__ = ["EMBEDS_GUIDANCE", "tiny", "unpacked"]

EMBEDS_GUIDANCE = True
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}"
    "{{ message['content'][0]['text'] }}<|im_end|>{% endfor %}"
)


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    return parts.shaken(
        Flux2Pipeline(
            transformer=parts.flux_2_network(guidance=True),
            scheduler=parts.flow_scheduler(use_dynamic_shifting=True),
            vae=parts.flux_2_autoencoder(),
            text_encoder=parts.mistral(layers=30),
            tokenizer=parts.qwen_tokenizer(CHAT),
        )
    )
