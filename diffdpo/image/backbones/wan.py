"""Wan 2.1 and 2.2: a transformer over clips, and UMT5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn

from diffdpo.errors import UserError, short
from diffdpo.image.backbones.checks import STATISTICS, check_statistic
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.qwen_latents import by_channel
from diffdpo.image.backbones.video import VideoTransformer


class Wan(VideoTransformer):
    """Rectified flow over clips (Wan Team 2025, arXiv 2503.20314). The model of 5B parameters of
    Wan 2.2 may give each token a timestep of its own; from text alone they are all the same."""

    pipeline_class = WanPipeline
    network_class = WanTransformer3DModel
    vae_class = AutoencoderKLWan
    prompt_outputs: ClassVar = {"tokens_NLD": 0}
    cleans_with: ClassVar = ("ftfy",)
    native: ClassVar = 480

    @property
    def pixel_factor(self) -> int:
        return self.vae_config.scale_factor_spatial

    @property
    def frame_factor(self) -> int:
        return self.vae_config.scale_factor_temporal

    @classmethod
    def latent_channels(cls, vae_config: Any) -> int:
        channels: int = vae_config.z_dim
        return channels

    def normalised(self, posterior: Any) -> tuple[Tensor, Tensor]:
        return by_channel(posterior, *(getattr(self.vae_config, name) for name in STATISTICS))

    @classmethod
    def check_registered(cls, settings: Mapping[str, Any]) -> None:
        if (boundary := settings.get("boundary_ratio")) is not None:
            raise UserError(
                f"it has two transformers, one above and one below t = {short(boundary)}"
                " (boundary_ratio); models of one are supported, as Wan 2.1 and Wan 2.2 of 5B"
            )

    @classmethod
    def check_autoencoder(cls, config: Any) -> None:
        pixels = 3 * (config.patch_size or 1) ** 2
        if (config.in_channels, config.out_channels) != (pixels, pixels):
            raise UserError(
                f"vae/config.json: takes {config.in_channels} channels, and pictures have {pixels}"
            )
        for name in STATISTICS:
            check_statistic(name, getattr(config, name), config.z_dim)

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        if config.image_dim is not None:
            raise UserError("the transformer begins from a picture, which is not supported")
        super().check_network(config, vae_config, text_configs)

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        return network(
            hidden_states=noisy,
            timestep=1000 * timestep_N,
            encoder_hidden_states=condition["tokens_NLD"],
            return_dict=False,
        )[0]
