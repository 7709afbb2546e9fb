"""LTX-Video: a transformer over tokens of single latent cells, and T5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel
from torch import Tensor, nn

from diffdpo.errors import UserError
from diffdpo.image.backbones.conditions import MASK, Condition
from diffdpo.image.backbones.qwen_latents import by_channel
from diffdpo.image.backbones.video import VideoTransformer

FRAMES, PIXELS = 8, 32  # of a latent cell, by which the network counts positions
FRAME_RATE = 25  # a second, as the pipeline samples unless told otherwise


class LTX(VideoTransformer):
    """Rectified flow over clips of 25 frames a second (HaCohen et al. 2024, arXiv 2501.00103)."""

    pipeline_class = LTXPipeline
    network_class = LTXVideoTransformer3DModel
    vae_class = AutoencoderKLLTXVideo
    prompt_outputs: ClassVar = {"tokens_NLD": 0, MASK: 1}
    patch: ClassVar = 1
    native: ClassVar = 512

    @property
    def pixel_factor(self) -> int:
        return PIXELS

    @property
    def frame_factor(self) -> int:
        return FRAMES

    def normalised(self, posterior: Any) -> tuple[Tensor, Tensor]:
        # The statistics are buffers of the autoencoder, and not in its configuration.
        deviation = self.vae.latents_std.float() / self.vae_config.scaling_factor
        return by_channel(posterior, self.vae.latents_mean, deviation)

    @classmethod
    def check_autoencoder(cls, config: Any) -> None:
        super().check_autoencoder(config)
        halvings = 2 ** sum(config.spatio_temporal_scaling)
        pixels = config.spatial_compression_ratio or config.patch_size * halvings
        frames = config.temporal_compression_ratio or config.patch_size_t * halvings
        if (pixels, frames) != (PIXELS, FRAMES):
            raise UserError(
                f"vae/config.json: latent cells of {pixels} pixels and {frames} frames are not"
                f" supported (of {PIXELS} and {FRAMES} are)"
            )

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        if (config.patch_size, config.patch_size_t) != (1, 1):
            raise UserError("the transformer has patches of several cells, which is not supported")
        super().check_network(config, vae_config, text_configs)

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        frames, height, width = noisy.shape[2:]
        output = network(
            hidden_states=noisy.flatten(2).transpose(1, 2),
            timestep=1000 * timestep_N,
            encoder_hidden_states=condition["tokens_NLD"],
            encoder_attention_mask=condition[MASK],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(FRAMES / FRAME_RATE, PIXELS, PIXELS),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).unflatten(2, (frames, height, width))
