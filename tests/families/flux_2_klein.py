from __future__ import annotations

from typing import Any

import torch
from diffusers import Flux2KleinPipeline
from transformers import Qwen3ForCausalLM

from tests.families import parts
from tests.families.parts import flux_2_unpacked as unpacked

__all__ = ["tiny", "unpacked"]


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    return parts.shaken(
        Flux2KleinPipeline(
            transformer=parts.flux_2_network(guidance=False),
            scheduler=parts.flow_scheduler(use_dynamic_shifting=True),
            vae=parts.flux_2_autoencoder(),
            text_encoder=parts.qwen3(Qwen3ForCausalLM, layers=27),
            tokenizer=parts.qwen_tokenizer(),
            is_distilled=distilled,
        )
    )
