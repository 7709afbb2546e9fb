"""The interface of a model family, with what all latent-diffusion UNets share.

Shapes: ``N`` items, pixels ``(N, 3, H, W)`` in [−1, 1], latents ``NCHW``, ``L`` tokens, ``D``
channels of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from diffdpo.errors import UserError, short
from diffdpo.image.pixels import CroppedImage

Condition = dict[str, Tensor]


class Backbone:
    """A loaded pipeline as three functions: it encodes images, encodes prompts, and predicts."""

    pipeline_class: Any  # of diffusers
    network_class: Any = UNet2DConditionModel  # of the part that is trained
    part: ClassVar[str] = "unet"  # the name of that part in the pipeline and in its folder
    # Layers that get an adapter where ``--lora_target_modules`` does not say: some in every block.
    lora_targets: ClassVar[tuple[str, ...]] = ("to_k", "to_q", "to_v", "to_out.0")
    load_options: ClassVar[dict[str, Any]] = {}
    # The frozen components, autoencoder first. Where their output is stored they are not needed.
    encoder_names: ClassVar[tuple[str, ...]] = ("vae", "text_encoder")
    # Whether the pipeline undoes a mean and a deviation of each latent channel when it decodes.
    undoes_statistics: ClassVar[bool] = False

    def __init__(self, pipeline: Any, vae_config: Any) -> None:
        self.pipeline, self.vae_config = pipeline, vae_config
        self.pipeline_in_memory: Any = None  # the caller's, where none was loaded from disk
        # Of files in half precision some components load in it and some do not. All begin in
        # float32, and ``move_encoders`` decides what stays so.
        self.network.float()
        for encoder in self.encoders():
            encoder.float().requires_grad_(False).eval()

    @property
    def network(self) -> Any:
        """The network that is trained."""
        return getattr(self.pipeline, self.part)

    @property
    def pixel_factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return 2 ** (len(self.vae_config.block_out_channels) - 1)

    @property
    def native_resolution(self) -> int:
        """The side in pixels of the images that the network was made for.

        Raises UserError where its configuration names none, or one that is not square.
        """
        size = self.network.config.sample_size
        sides = set(size) if isinstance(size, (list, tuple)) else {size}
        if len(sides) > 1 or None in sides:
            raise UserError(
                f"the model's images are {short(size)} latent cells, no square; say --resolution"
            )
        return sides.pop() * self.pixel_factor

    @property
    def vae(self) -> Any:
        """The autoencoder, where it is loaded."""
        return self.pipeline.vae

    def text_encoders(self) -> list[Any]:
        """The frozen text encoders, where they are loaded."""
        return [
            getattr(self.pipeline, name)
            for name in self.encoder_names[1:]
            if getattr(self.pipeline, name)
        ]

    def tokenizers(self) -> list[Any]:
        """The tokenizers of the text encoders."""
        names = [name.replace("text_encoder", "tokenizer") for name in self.encoder_names[1:]]
        return [getattr(self.pipeline, name) for name in names]

    def encoders(self) -> list[Any]:
        """All frozen components that are loaded."""
        return [*([self.vae] if self.vae else []), *self.text_encoders()]

    def move_encoders(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the frozen components to a device, in the precision of a network in ``dtype``."""
        if self.vae:
            # On a CPU channels_last makes the autoencoder faster, in bfloat16 twice as fast.
            layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
            self.vae.to(device, vae_dtype(dtype), memory_format=layout)
        for encoder in self.text_encoders():
            encoder.to(device, dtype)

    def free_encoders(self) -> None:
        """Free the memory of the frozen components."""
        for name in self.encoder_names:
            setattr(self.pipeline, name, None)

    @torch.no_grad()
    def encode_images(self, pixels_NCHW: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent posteriors, float32, ``chunk`` at a time."""
        means, stds = [], []
        for pixels in pixels_NCHW.split(chunk):
            posterior = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist
            # The channels_last layout must not reach the network, which rounds otherwise in it:
            # with latents from disk a run would compute other numbers.
            means.append(posterior.mean.float().contiguous())
            stds.append(posterior.std.float().contiguous())
        return torch.cat(means), torch.cat(stds)

    def normalise(self, latents_NCHW: Tensor) -> Tensor:
        """Latents in the scale that the network works in: what the pipeline undoes to decode."""
        config = self.vae_config
        if getattr(config, "latents_mean", None) is None:
            return latents_NCHW * config.scaling_factor
        mean, std = (
            torch.tensor(values, device=latents_NCHW.device).view(1, -1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return (latents_NCHW - mean) * config.scaling_factor / std

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Embeddings of ``B`` prompts, each value with ``B`` rows, as sampling makes them."""
        raise NotImplementedError

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
        """How many of the prompts are longer than the text encoders read, and lose their end."""
        cut: set[int] = set()
        for tokenizer in self.tokenizers():
            texts = self.pipeline.maybe_convert_prompt(list(prompts), tokenizer)
            rows = tokenizer(texts, verbose=False).input_ids if texts else []
            cut |= {n for n, row in enumerate(rows) if len(row) > tokenizer.model_max_length}
        return len(cut)

    @property
    def longest_prompt(self) -> int:
        """The number of tokens that the text encoders read, begin and end included."""
        return min(tokenizer.model_max_length for tokenizer in self.tokenizers())

    @classmethod
    def text_width(cls, text_configs: Sequence[Any]) -> int:
        """The channels of an embedded token."""
        return sum(config.hidden_size for config in text_configs)

    @classmethod
    def blank_condition(cls, text_configs: Sequence[Any]) -> Condition:
        """A condition for one item, with shapes and no numbers."""
        raise NotImplementedError

    def size_condition(self, images: Sequence[CroppedImage], resolution: int) -> Condition:
        """The network's condition on the size and crop of each image; most families have none."""
        return {}

    @staticmethod
    def predict(
        network: nn.Module, noisy_NCHW: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        """The network's output, shape of ``noisy_NCHW``."""
        raise NotImplementedError


def vae_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of the autoencoder beside a network in ``dtype``."""
    # Many overflow in float16; bfloat16 has the range of float32.
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
