"""Sana: linear attention over latents of 32 pixels a cell, under Gemma 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel
from torch import Tensor, nn

from diffdpo.errors import UserError
from diffdpo.image.backbones.conditions import MASK, Condition
from diffdpo.image.backbones.grid_transformer import GridTransformer, call_default, without_variance
from diffdpo.reference import unwrapped


class Sana(GridTransformer):
    """Rectified flow (Xie et al. 2024, arXiv 2410.10629)."""

    pipeline_class = SanaPipeline
    network_class = SanaTransformer2DModel
    vae_class = AutoencoderDC
    # An instruction stands before each prompt, and not before the negative one.
    prompt_outputs: ClassVar = {"tokens_NLD": 0, MASK: 1}
    negative_outputs: ClassVar = {"tokens_NLD": 2, MASK: 3}
    undone: ClassVar = ()
    patch: ClassVar = 1
    side_multiple: ClassVar = 32
    may_give_variance: ClassVar = True
    bins_resolutions: ClassVar = True

    def posterior(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The latents themselves: this autoencoder has no posterior."""
        latents = self.vae.encode(pixels_NCHW).latent.float() * self.vae_config.scaling_factor
        return latents, torch.zeros_like(latents)

    def before_prompt(self) -> str:
        return "\n".join(call_default(self.pipeline, "complex_human_instruction"))

    def prompt_limits(self) -> dict[str, int]:
        instruction = len(self.token_ids("tokenizer", [self.before_prompt()])[0])
        # The instruction comes on top, and the pipeline counts two tokens of it as the prompt's.
        return {"tokenizer": instruction + super().prompt_limits()["tokenizer"] - 2}

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        super().check_network(config, vae_config, text_configs)
        if config.guidance_embeds:
            raise UserError(
                "the transformer takes the guidance scale as an input, as that of the distilled"
                " Sana-Sprint does, and the pipeline does not give it"
            )

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        output = network(
            noisy,
            encoder_hidden_states=condition["tokens_NLD"],
            encoder_attention_mask=condition[MASK],
            timestep=1000 * timestep_N * unwrapped(network).config.timestep_scale,
            return_dict=False,
        )[0]
        return without_variance(output, noisy)
