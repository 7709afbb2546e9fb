"""Transformers that take latents as a grid and cut it into patches themselves."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from diffdpo.errors import UserError, short
from diffdpo.image.backbones.base import pixels_per_cell, square
from diffdpo.image.backbones.checks import check_autoencoder
from diffdpo.image.backbones.latent_transformer import LatentTransformer, check_channels


class GridTransformer(LatentTransformer):
    """Latents go in and come out as ``NCHW``. A family says what its pipeline takes for granted."""

    # Pixels per latent cell where the pipeline computes with its own number; None: as they are.
    assumed_factor: ClassVar[int | None] = None
    side_multiple: ClassVar[int] = 1  # what the pipeline itself asks of the sides of pictures
    # Whether the network may give a variance beside its prediction.
    may_give_variance: ClassVar[bool] = False
    # Whether the pipeline draws a picture at the nearest size in its table, and resizes it.
    bins_resolutions: ClassVar[bool] = False

    @property
    def pixel_multiple(self) -> int:
        return math.lcm(self.side_multiple, self.pixel_factor * self.patch)

    @property
    def native_resolution(self) -> int:
        return square(self.network.config.sample_size, self.pixel_factor)

    def tokens(self, resolution: int) -> int:
        return (resolution // (self.pixel_factor * self.patch)) ** 2

    def sampling_options(self, guidance: float, count: int = 1) -> dict[str, Any]:
        options = super().sampling_options(guidance, count)
        return {**options, "use_resolution_binning": False} if self.bins_resolutions else options

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
        taken, given = config.in_channels, cls.channels_given(config)
        if given != taken and not (cls.may_give_variance and given == 2 * taken):
            raise UserError(
                f"the transformer gives {given} channels, the autoencoder takes {taken}"
            )

    @classmethod
    def channels_given(cls, config: Any) -> int:
        """The channels of the network's output, a variance included."""
        channels: int = config.out_channels or config.in_channels
        return channels


def without_variance(output_NCHW: Tensor, noisy_NCHW: Tensor) -> Tensor:
    """The prediction in a network's output, which may be followed by a variance."""
    return output_NCHW[:, : noisy_NCHW.shape[1]]


def call_default(pipeline: Any, argument: str) -> Any:
    """What the pipeline's call takes where an argument is not given."""
    return inspect.signature(type(pipeline).__call__).parameters[argument].default
