"""Stable Diffusion 1.x and 2.x: one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.latent_unet import LatentUNet


class StableDiffusion(LatentUNet):
    """Latent diffusion with a text condition (Rombach et al. 2022)."""

    pipeline_class = StableDiffusionPipeline
    # A safety checker would blacken pictures that are compared. The result that is exported has the
    # published one again.
    load_options: ClassVar = {"safety_checker": None, "requires_safety_checker": False}

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        return {"tokens_NLD": self.embed(prompts)[0]}

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        return {"tokens_NLD": torch.empty(1, 2, cls.text_width(text_configs))}

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        return network(noisy, timestep_N, encoder_hidden_states=condition["tokens_NLD"]).sample
