"""What the families of latent diffusion with a UNet share: Stable Diffusion and SDXL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from diffdpo.engine.transfer import constant
from diffdpo.image.backbones.base import Backbone, square
from diffdpo.image.backbones.checks import check_autoencoder, check_unet
from diffdpo.image.backbones.conditions import Condition


class LatentUNet(Backbone):
    """A UNet that predicts noise or its velocity, under the embeddings of CLIP."""

    part: ClassVar = "unet"
    network_class: Any = UNet2DConditionModel
    is_flow: ClassVar = False
    # Whether the pipeline undoes a mean and a deviation of each latent channel when it decodes.
    undoes_statistics: ClassVar[bool] = False

    @property
    def native_resolution(self) -> int:
        return square(self.network.config.sample_size, self.pixel_factor)

    def posterior(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(pixels_NCHW).latent_dist
        return posterior.mean, posterior.std

    def normalise(self, latents: Tensor) -> Tensor:
        """What the pipeline undoes to decode."""
        # On the sample, not on mean and deviation: it would round otherwise.
        config = self.vae_config
        if getattr(config, "latents_mean", None) is None:
            return latents * config.scaling_factor
        mean, std = (
            constant(tuple(values), latents.device).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return (latents - mean) * config.scaling_factor / std

    def embed(self, prompts: Sequence[str]) -> tuple[Tensor, ...]:
        """The pipeline's own encoding of prompts, in which a token may stand for many vectors."""
        with torch.no_grad():
            return self.pipeline.encode_prompt(
                prompt=list(prompts),
                device=self.text_encoders()[0].device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )

    def cut_prompts(self, prompts: Sequence[str]) -> int:
        cut: set[int] = set()
        for tokenizer in self.tokenizers():
            texts = self.pipeline.maybe_convert_prompt(list(prompts), tokenizer)
            rows = tokenizer(texts, verbose=False).input_ids if texts else []
            cut |= {n for n, row in enumerate(rows) if len(row) > tokenizer.model_max_length}
        return len(cut)

    @property
    def longest_prompt(self) -> int:
        return min(tokenizer.model_max_length for tokenizer in self.tokenizers())

    @classmethod
    def text_width(cls, text_configs: Mapping[str, Any]) -> int:
        """The channels of an embedded token."""
        return sum(config.hidden_size for config in text_configs.values())

    @classmethod
    def check_autoencoder(cls, config: Any) -> None:
        undone = ("latents_mean", "latents_std") if cls.undoes_statistics else ()
        check_autoencoder(config, undone)

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        check_unet(config, vae_config, cls.text_width(text_configs))

    @classmethod
    def blank_inputs(
        cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Condition]:
        side = 2 ** len(config.block_out_channels)
        noisy = torch.empty(1, vae_config.latent_channels, side, side)
        return noisy, torch.empty(1, dtype=torch.long), cls.blank_condition(config, text_configs)

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        """A condition for one item, with shapes and no numbers."""
        raise NotImplementedError
