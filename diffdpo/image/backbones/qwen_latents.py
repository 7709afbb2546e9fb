"""What the families over the latents of Qwen-Image's autoencoder share: it is one of videos, and a
picture is a clip of one frame."""

from __future__ import annotations

from typing import Any, ClassVar

from diffusers import AutoencoderKLQwenImage
from torch import Tensor

from diffdpo.engine.transfer import constant
from diffdpo.errors import UserError
from diffdpo.image.backbones.checks import STATISTICS, check_statistic
from diffdpo.image.backbones.latent_transformer import LatentTransformer


class QwenLatents(LatentTransformer):
    """A transformer over packed patches of such latents."""

    vae_class = AutoencoderKLQwenImage
    channels_per_latent: ClassVar = 4

    @property
    def pixel_factor(self) -> int:
        return 2 ** len(self.vae_config.temperal_downsample)

    @classmethod
    def latent_channels(cls, vae_config: Any) -> int:
        channels: int = vae_config.z_dim
        return channels

    def posterior(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        clips_NCFHW = pixels_NCHW.unsqueeze(2)
        statistics = (getattr(self.vae_config, name) for name in STATISTICS)
        mean, std = by_channel(self.vae.encode(clips_NCFHW).latent_dist, *statistics)
        return mean.squeeze(2), std.squeeze(2)

    @classmethod
    def check_autoencoder(cls, config: Any) -> None:
        if config.input_channels != 3:
            what = f"takes {config.input_channels} channels, and pictures have 3"
            raise UserError(f"vae/config.json: {what}")
        for name in STATISTICS:
            check_statistic(name, getattr(config, name), config.z_dim)


def by_channel(posterior: Any, centre: Any, scale: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation of a posterior ``NCFHW``, each channel without its mean ``centre``, over
    its deviation ``scale``."""
    centre, scale = (
        constant(tuple(one), posterior.mean.device).view(1, -1, 1, 1, 1) for one in (centre, scale)
    )
    return (posterior.mean.float() - centre) / scale, posterior.std.float() / scale
