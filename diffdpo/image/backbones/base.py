"""What a model family must be able to do, and what all latent-diffusion UNets share.

Shapes: ``N`` items, pixels ``(N, 3, H, W)`` in [−1, 1], latents ``NCHW``, ``L`` tokens, ``D``
channels of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffdpo.image.pixels import Placed

Condition = dict[str, Tensor]


class Backbone:
    """A loaded pipeline seen as: an encoder of images, an encoder of prompts, and a network that
    predicts."""

    pipeline_class: Any  # of diffusers
    load_options: ClassVar[dict[str, Any]] = {}
    encoder_parts: ClassVar[tuple[str, ...]] = (
        "vae",
        "text_encoder",
    )  # not needed where their output is stored

    def __init__(self, pipeline: Any, vae_config: Any) -> None:
        self.pipeline, self.vae_config = pipeline, vae_config
        self.given: Any = None  # the pipeline that a program had in memory, its parts untouched
        # Stored in half precision, parts load in different ones; all begin in float32, ``place``
        # decides what stays.
        self.network.float()
        for encoder in self.encoders():
            encoder.float().requires_grad_(False).eval()

    @property
    def network(self) -> Any:
        """The part that is trained."""
        return self.pipeline.unet

    @property
    def pixel_factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return 2 ** (len(self.vae_config.block_out_channels) - 1)

    @property
    def native_resolution(self) -> int:
        """The side in pixels that the network was made for."""
        return self.network.config.sample_size * self.pixel_factor

    @property
    def vae(self) -> Any:
        """The autoencoder, where it is loaded."""
        return self.pipeline.vae

    def text_encoders(self) -> list[Any]:
        """The frozen text encoders, where they are loaded."""
        return [
            getattr(self.pipeline, part)
            for part in self.encoder_parts[1:]
            if getattr(self.pipeline, part)
        ]

    def tokenizers(self) -> list[Any]:
        """Those of the text encoders."""
        parts = [part.replace("text_encoder", "tokenizer") for part in self.encoder_parts[1:]]
        return [getattr(self.pipeline, part) for part in parts]

    def encoders(self) -> list[Any]:
        """All frozen parts that are loaded."""
        return [*([self.vae] if self.vae else []), *self.text_encoders()]

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the frozen parts. On a CPU channels_last makes the autoencoder faster, in bfloat16
        twice as fast."""
        if self.vae:
            layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
            self.vae.to(device, vae_dtype(dtype), memory_format=layout)
        for encoder in self.text_encoders():
            encoder.to(device, dtype)

    def let_go(self) -> None:
        """Free the frozen parts."""
        for part in self.encoder_parts:
            setattr(self.pipeline, part, None)

    @torch.no_grad()
    def encode_images(self, pixels_NCHW: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent posterior, float32, ``chunk`` images at a
        time."""
        means, stds = [], []
        for part in pixels_NCHW.split(chunk):
            posterior = self.vae.encode(part.to(self.vae.device, self.vae.dtype)).latent_dist
            # The autoencoder's own layout must not reach the network, which rounds differently in
            # another.
            means.append(posterior.mean.float().contiguous())
            stds.append(posterior.std.float().contiguous())
        return torch.cat(means), torch.cat(stds)

    def normalise(self, latents_NCHW: Tensor) -> Tensor:
        """Latents in the scale the network works in."""
        shift = getattr(self.vae_config, "shift_factor", None) or 0.0
        return (latents_NCHW - shift) * self.vae_config.scaling_factor

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Embeddings of ``B`` prompts, each value with ``B`` rows."""
        raise NotImplementedError

    def size_condition(self, images: Sequence[Placed], resolution: int) -> Condition:
        """What the network is told about each image's size and crop; nothing, for most."""
        return {}

    def predict(
        self, network: nn.Module, noisy_NCHW: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        """The network's output, shape of ``noisy_NCHW``."""
        raise NotImplementedError


def vae_dtype(dtype: torch.dtype) -> torch.dtype:
    """The autoencoder's precision beside a network's: many overflow in float16, so only bfloat16 is
    passed on."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def tokenize(tokenizer: Any, prompts: Sequence[str], device: torch.device) -> Tensor:
    """Token ids ``(B, L)``, padded and cut to the tokenizer's length."""
    length = tokenizer.model_max_length
    found = tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return found.input_ids.to(device)
