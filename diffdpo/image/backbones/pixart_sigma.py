"""PixArt-Σ: a small transformer under T5 that predicts noise, and a variance beside it."""

from __future__ import annotations

from typing import ClassVar

from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel
from torch import Tensor, nn

from diffdpo.image.backbones.conditions import MASK, Condition
from diffdpo.image.backbones.grid_transformer import GridTransformer, without_variance


class PixArtSigma(GridTransformer):
    """Latent diffusion (Chen et al. 2024, arXiv 2403.04692)."""

    pipeline_class = PixArtSigmaPipeline
    network_class = PixArtTransformer2DModel
    former_names: ClassVar = ("Transformer2DModel",)
    is_flow: ClassVar = False
    prompt_outputs: ClassVar = {"tokens_NLD": 0, MASK: 1}
    negative_outputs: ClassVar = {"tokens_NLD": 2, MASK: 3}
    cleans_with: ClassVar = ("bs4", "ftfy")
    undone: ClassVar = ()
    side_multiple: ClassVar = 8
    may_give_variance: ClassVar = True
    bins_resolutions: ClassVar = True

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        output = network(
            noisy,
            encoder_hidden_states=condition["tokens_NLD"],
            encoder_attention_mask=condition[MASK],
            timestep=timestep_N,
            # Conditions of PixArt-α, which this pipeline leaves out.
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return without_variance(output, noisy)
