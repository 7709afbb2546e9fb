"""Stable Diffusion 1.x and 2.x: one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from diffdpo.image.backbones.base import Backbone, Condition, tokenize


class StableDiffusion(Backbone):
    """Latent diffusion with a text condition (Rombach et al. 2022)."""

    pipeline_class = StableDiffusionPipeline
    # A safety checker would blacken pictures that are compared. The result that is exported has the
    # published one again.
    load_options: ClassVar = {"safety_checker": None, "requires_safety_checker": False}

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        encoder = self.pipeline.text_encoder
        return {
            "tokens_NLD": encoder(tokenize(self.pipeline.tokenizer, prompts, encoder.device))[0]
        }

    def predict(
        self, network: nn.Module, noisy_NCHW: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        return network(noisy_NCHW, timestep_N, encoder_hidden_states=condition["tokens_NLD"]).sample
