"""What the families of video share: clips with an axis of frames, pictures as clips of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from diffdpo.image.backbones.base import Shape
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.latent_transformer import SIDE, LatentTransformer


class VideoTransformer(LatentTransformer):
    """A transformer over the latents ``NCFHW`` of clips. The first frame of a clip has a latent
    frame of its own, and so has every group of ``frame_factor`` frames after it."""

    undone: ClassVar = ()

    @property
    def frame_factor(self) -> int:
        return int(self.vae_config.temporal_compression_ratio)

    @property
    def native_frames(self) -> int:
        frames: int = self.call_defaults()["num_frames"]
        return frames

    @property
    def latent_frames(self) -> int:
        """The length of a clip in latent frames."""
        return (self.num_frames - 1) // self.frame_factor + 1

    def latent_shape(self, resolution: int) -> Shape:
        side = resolution // self.pixel_factor
        return (self.latent_channels(self.vae_config), self.latent_frames, side, side)

    def tokens(self, resolution: int) -> int:
        return self.latent_frames * super().tokens(resolution)

    def posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Of pictures ``(N, 3, H, W)`` or clips ``(N, 3, F, H, W)``."""
        clips = pixels.unsqueeze(2) if pixels.dim() == 4 else pixels
        return self.normalised(self.vae.encode(clips).latent_dist)

    def normalised(self, posterior: Any) -> tuple[Tensor, Tensor]:
        """Mean and deviation of a posterior in the network's scale."""
        scale = self.vae_config.scaling_factor
        return posterior.mean.float() * scale, posterior.std.float() * scale

    @classmethod
    def blank_inputs(
        cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Condition]:
        noisy = torch.empty(1, cls.latent_channels(vae_config), 1, SIDE, SIDE)
        return noisy, torch.empty(1), cls.blank_condition(config, text_configs)

    def sampling_options(self, guidance: float, count: int = 1) -> dict[str, Any]:
        return {**super().sampling_options(guidance, count), "num_frames": self.num_frames}

    def pictures(self, output: Any) -> list[Image.Image]:
        # Of a clip its middle frame is shown and judged.
        return [clip[len(clip) // 2] for clip in output.frames]
