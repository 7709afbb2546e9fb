"""What the families of video share: clips with an axis of frames, pictures as clips of one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from diffdpo.image.backbones.base import Shape
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.latent_transformer import SIDE, LatentTransformer, check_channels


class VideoTransformer(LatentTransformer):
    """A transformer over the latents ``NCFHW`` of clips. The first frame of a clip has a latent
    frame of its own, and so has every group of ``frame_factor`` frames after it."""

    undone: ClassVar = ()

    @property
    def frame_factor(self) -> int:
        return int(self.vae_config.temporal_compression_ratio)

    @property
    def native_frames(self) -> int:
        return inspect.signature(type(self.pipeline).__call__).parameters["num_frames"].default

    @property
    def latent_frames(self) -> int:
        """The length of a clip in latent frames."""
        return (self.num_frames - 1) // self.frame_factor + 1

    def latent_shape(self, resolution: int) -> Shape:
        side = resolution // self.pixel_factor
        return (self.channels(self.vae_config), self.latent_frames, side, side)

    def tokens(self, resolution: int) -> int:
        return self.latent_frames * super().tokens(resolution)

    @classmethod
    def channels(cls, vae_config: Any) -> int:
        """The number of channels of the latents."""
        return vae_config.latent_channels

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Of pictures ``(N, 3, H, W)`` or clips ``(N, 3, F, H, W)``."""
        clips = pixels.unsqueeze(2) if pixels.dim() == 4 else pixels
        posterior = self.vae.encode(clips).latent_dist
        shift, scale = self.statistics(posterior.mean.device)
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    def statistics(self, device: torch.device) -> tuple[Tensor | float, Tensor | float]:
        """Shift and scale of the latents, z ↦ (z − shift) · scale, float32."""
        return 0.0, self.vae_config.scaling_factor

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        check_channels(config.in_channels, cls.channels(vae_config))

    @classmethod
    def blank_inputs(
        cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Condition]:
        noisy = torch.empty(1, cls.channels(vae_config), 1, SIDE, SIDE)
        return noisy, torch.empty(1), cls.blank_condition(config, text_configs)

    def sampling_options(self, guidance: float) -> dict[str, Any]:
        return {**super().sampling_options(guidance), "num_frames": self.num_frames}

    def pictures(self, output: Any) -> list[Image.Image]:
        # Of a clip its middle frame is shown and judged.
        return [clip[len(clip) // 2] for clip in output.frames]


def per_channel(values: Any, device: torch.device) -> Tensor:
    """Numbers of the latents' channels, to compute with latents ``NCFHW``, float32."""
    return torch.as_tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1, 1)
