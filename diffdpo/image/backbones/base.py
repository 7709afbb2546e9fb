"""What a model family must be able to do, and what all latent-diffusion UNets share.

Shapes: ``N`` items, pixels ``(N, 3, H, W)`` in [−1, 1], latents ``NCHW``, ``L`` tokens, ``D`` channels of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffdpo.image.pixels import Framed

Condition = dict[str, Tensor]


class Backbone:
    """A loaded pipeline seen as: an encoder of images, an encoder of prompts, and a network that predicts."""

    pipeline_class: Any  # of diffusers
    load_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        # Stored in half precision, parts load in different ones; all begin in float32, ``place`` decides what stays.
        self.network.float()
        self.vae: Any = pipeline.vae.float().requires_grad_(False).eval()
        for encoder in self.text_encoders():
            encoder.float().requires_grad_(False).eval()

    @property
    def network(self) -> Any:
        """The part that is trained."""
        return self.pipeline.unet

    @property
    def pixel_factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def native_resolution(self) -> int:
        """The side in pixels that the network was made for."""
        return self.network.config.sample_size * self.pixel_factor

    def text_encoders(self) -> list[Any]:
        """The frozen text encoders."""
        return [self.pipeline.text_encoder]

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the frozen parts. Half-precision autoencoders overflow in float16, so only bfloat16 is passed on;
        on a CPU channels_last makes the bfloat16 one twice as fast."""
        vae_dtype = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        layout = torch.channels_last if device.type == "cpu" and vae_dtype == torch.bfloat16 else torch.preserve_format
        self.vae.to(device, vae_dtype, memory_format=layout)
        for encoder in self.text_encoders():
            encoder.to(device, dtype)

    @torch.no_grad()
    def encode_images(self, pixels_NCHW: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent posterior, float32, ``chunk`` images at a time."""
        means, stds = [], []
        for part in pixels_NCHW.split(chunk):
            posterior = self.vae.encode(part.to(self.vae.device, self.vae.dtype)).latent_dist
            means.append(posterior.mean.float())
            stds.append(posterior.std.float())
        return torch.cat(means), torch.cat(stds)

    def normalise(self, latents_NCHW: Tensor) -> Tensor:
        """Latents in the scale the network works in."""
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return (latents_NCHW - shift) * self.vae.config.scaling_factor

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Embeddings of ``B`` prompts, each value with ``B`` rows."""
        raise NotImplementedError

    def size_condition(self, images: Sequence[Framed], resolution: int) -> Condition:
        """What the network is told about each image's size and crop; nothing, for most."""
        return {}

    def predict(self, network: nn.Module, noisy_NCHW: Tensor, timestep_N: Tensor, condition: Condition) -> Tensor:
        """The network's output, shape of ``noisy_NCHW``."""
        raise NotImplementedError


def tokenize(tokenizer: Any, prompts: Sequence[str], device: torch.device) -> Tensor:
    """Token ids ``(B, L)``, padded and cut to the tokenizer's length."""
    length = tokenizer.model_max_length
    found = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return found.input_ids.to(device)
