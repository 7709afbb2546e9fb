"""Transformers that take latents as a grid and cut it into patches themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diffdpo.errors import UserError, short
from diffdpo.image.backbones.base import pixels_per_cell, square
from diffdpo.image.backbones.checks import check_autoencoder
from diffdpo.image.backbones.latent_transformer import LatentTransformer, check_channels


class GridTransformer(LatentTransformer):
    """Latents go in and come out as ``NCHW``. A family says what its pipeline takes for granted."""

    # Pixels per latent cell where the pipeline computes with its own number; None: as they are.
    assumed_factor: ClassVar[int | None] = None
    # Channels that come out, for each that goes in: 2 with a variance, which is not used.
    channels_out: ClassVar[int] = 1

    @property
    def native_resolution(self) -> int:
        return square(self.network.config.sample_size, self.pixel_factor)

    @classmethod
    def check_autoencoder(cls, config: Any) -> None:
        check_autoencoder(config, cls.undone)
        factor = pixels_per_cell(config)
        if cls.assumed_factor not in (None, factor):
            raise UserError(
                f"vae/config.json: {factor} pixels per latent cell, and the pipeline"
                f" {cls.pipeline_class.__name__} takes {cls.assumed_factor} for granted"
            )

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        check_channels(config.in_channels, vae_config.latent_channels)
        if config.patch_size != cls.patch:
            raise UserError(
                f"transformer/config.json: patch_size {short(config.patch_size)} is not supported"
                f" (only {cls.patch} is)"
            )
        given, needed = config.out_channels or config.in_channels, config.in_channels
        needed *= cls.channels_out
        if given != needed:
            raise UserError(f"the transformer gives {given} channels, and {needed} are needed")
