"""Lumina-Image 2.0: one transformer over the tokens of text and picture, and Gemma 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
from torch import Tensor, nn

from diffdpo.image.backbones.conditions import MASK, Condition
from diffdpo.image.backbones.grid_transformer import GridTransformer


class BlankMask(Tensor):
    """The mask of two tokens, without numbers: the network reads lengths off its mask."""

    def tolist(self) -> list[int]:
        """What ``sum(dim=1)`` of it would hold."""
        return [2]


class Lumina2(GridTransformer):
    """Rectified flow that counts from noise to picture (Qin et al. 2025, arXiv 2503.21758)."""

    pipeline_class = Lumina2Pipeline
    network_class = Lumina2Transformer2DModel
    # A system prompt stands before each prompt, and not before the negative one.
    prompt_outputs: ClassVar = {"tokens_NLD": 0, MASK: 1}
    negative_outputs: ClassVar = {"tokens_NLD": 2, MASK: 3}
    assumed_factor: ClassVar = 8

    @property
    def largest_resolution(self) -> float:
        return min(self.network.config.axes_lens[1:]) * self.pixel_factor * self.patch

    def before_prompt(self) -> str:
        return f"{self.pipeline.system_prompt} <Prompt Start> "

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        condition = super().blank_condition(config, text_configs)
        return {**condition, MASK: condition[MASK].as_subclass(BlankMask)}

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        # At its time 0 all is noise, so that it predicts x_0 − ε.
        return -network(
            hidden_states=noisy,
            timestep=1 - timestep_N,
            encoder_hidden_states=condition["tokens_NLD"],
            encoder_attention_mask=condition[MASK],
            return_dict=False,
        )[0]
