"""Krea 2: one stream over packed patches and several layers of Qwen3-VL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import Krea2Pipeline, Krea2Transformer2DModel
from torch import Tensor, nn

from diffdpo.image.backbones.conditions import MASK, Condition, padded
from diffdpo.image.backbones.latent_transformer import flagged, text_width
from diffdpo.image.backbones.packing import pack, positions, unpack
from diffdpo.image.backbones.qwen_latents import QwenLatents

TOKENS = "tokens_NLKD"  # K layers of the text encoder


class Krea2(QwenLatents):
    """Rectified flow over the latents of Qwen-Image (Krea 2026)."""

    pipeline_class = Krea2Pipeline
    network_class = Krea2Transformer2DModel
    prompt_outputs: ClassVar = {TOKENS: 0, MASK: 1}
    guidance_off: ClassVar = 0.0  # it adds the scaled difference to the prediction under the prompt

    @classmethod
    def distilled(cls, index: Mapping[str, Any], network_config: Any, scheduler: Any) -> str:
        return flagged(index)

    def before_prompt(self) -> str:
        before: str = self.pipeline.prompt_template_encode_prefix
        return before

    def prompt_limits(self) -> dict[str, int]:
        # The tokens before a prompt are read and then dropped, those after it have room of their
        # own.
        one = self.pipeline
        more = one.prompt_template_encode_start_idx - one.prompt_template_encode_num_suffix_tokens
        return {name: limit + more for name, limit in super().prompt_limits().items()}

    def condition_of(self, outputs: Mapping[str, Any]) -> Condition:
        # The padding stands before the template's end. Masked tokens are not seen, and those of a
        # text have no position in the network: without padding it computes the same.
        rows = zip(outputs[TOKENS], outputs[MASK], strict=True)
        return padded(TOKENS, [tokens[mask] for tokens, mask in rows])

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        width = text_width(text_configs)
        return padded(TOKENS, torch.empty(1, 2, config.num_text_layers, width))

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        height, width = noisy.shape[-2:]
        places = positions(height, width, noisy.device)
        output = network(
            hidden_states=pack(noisy),
            encoder_hidden_states=condition[TOKENS],
            timestep=timestep_N,
            position_ids=torch.cat([places.new_zeros(condition[TOKENS].shape[1], 3), places]),
            encoder_attention_mask=condition[MASK],
            return_dict=False,
        )[0]
        return unpack(output, height, width)
