"""Flux.2-klein-base: the network of Flux.2 without an input for guidance, under Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers import Flux2KleinPipeline

from diffdpo.image.backbones.chat import MARK, before_mark, user_message
from diffdpo.image.backbones.flux_2 import Flux2
from diffdpo.image.backbones.latent_transformer import flagged


class Flux2Klein(Flux2):
    """Rectified flow with guidance by the empty prompt (Black Forest Labs 2026)."""

    pipeline_class = Flux2KleinPipeline
    embeds_guidance: ClassVar = False

    @classmethod
    def distilled(cls, index: Mapping[str, Any], network_config: Any, scheduler: Any) -> str:
        return flagged(index)

    def before_prompt(self) -> str:
        return before_mark(self.pipeline.tokenizer, user_message(MARK))
