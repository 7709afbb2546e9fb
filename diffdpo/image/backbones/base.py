"""The interface of a model family, with what all of them share.

Shapes: ``N`` items, pixels ``(N, 3, H, W)`` in [−1, 1], latents of ``NCHW`` or of a video's
``NCFHW``, ``L`` tokens, ``D`` channels of an embedding.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn

from diffdpo.engine.transfer import on_device
from diffdpo.errors import UserError, short
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.pictures.pixels import CroppedImage, from_bytes

Shape = tuple[int, ...]
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # to compute in


class Backbone:
    """A loaded pipeline as three functions: it encodes images, encodes prompts, and predicts."""

    pipeline_class: Any  # of diffusers
    load_options: ClassVar[dict[str, Any]] = {}
    part: ClassVar[str]  # the name of what is trained, in the pipeline and in its folder
    network_class: Any  # of that part
    # Names that files have for that class from before it had one of its own.
    former_names: ClassVar[tuple[str, ...]] = ()
    vae_class: Any = AutoencoderKL
    # The frozen components, autoencoder first. Where their output is stored they are not needed.
    encoder_names: ClassVar[tuple[str, ...]] = ("vae", "text_encoder")
    # Those that a pipeline may lack.
    optional_encoders: ClassVar[tuple[str, ...]] = ()
    # Packages by which the pipeline changes prompts before it encodes them, where it finds them.
    cleans_with: ClassVar[tuple[str, ...]] = ()
    # Layers that get an adapter where ``--lora_target_modules`` does not say: some in every block.
    lora_targets: ClassVar[tuple[str, ...]] = ("to_k", "to_q", "to_v", "to_out.0")
    is_flow: ClassVar[bool] = True  # which of the two forward processes in ``process/noise.py``
    # The shift of t in training where the scheduler's own is one of sampling alone.
    training_shift: ClassVar[float | None] = None
    # How many prompts the pipeline may be called with, where those of one call change each other.
    prompts_at_once: ClassVar[int | None] = None
    guidance_off: ClassVar[float] = 1.0  # the guidance scale that leaves the prediction as it is
    num_frames = 1  # of a clip; a picture is a clip of one

    def __init__(self, pipeline: Any, vae_config: Any) -> None:
        self.pipeline, self.vae_config = pipeline, vae_config
        self.pipeline_in_memory: Any = None  # the caller's, where none was loaded from disk
        self.origin: Any = None  # where its parts are, where they were loaded from disk
        # Arguments of the pipeline's call that change how it encodes prompts.
        self.text_options: dict[str, int] = {}
        self.freeze_encoders()

    @property
    def network(self) -> Any:
        """The network that is trained."""
        return getattr(self.pipeline, self.part)

    @property
    def pixel_factor(self) -> int:
        """Image pixels per latent cell, along one side."""
        return pixels_per_cell(self.vae_config)

    @property
    def pixel_multiple(self) -> int:
        """What the sides of images must be a multiple of."""
        return self.pixel_factor

    @property
    def native_resolution(self) -> int:
        """The side in pixels of the images that the network was made for.

        Raises UserError where its configuration names none, or one that is not square.
        """
        raise NotImplementedError

    @classmethod
    def latent_channels(cls, vae_config: Any) -> int:
        """The channels of the latents, as ``predict`` takes them."""
        channels: int = vae_config.latent_channels
        return channels

    @property
    def largest_resolution(self) -> float:
        """The longest side in pixels for which the network has positions."""
        return math.inf

    def own_shift(self, resolution: int) -> float | None:
        """The shift of t in training at a resolution, where the scheduler alone does not tell."""
        return self.training_shift

    @property
    def frame_factor(self) -> int | None:
        """Frames of a clip per latent frame, after the first; None for families of pictures."""
        return None

    @property
    def native_frames(self) -> int:
        """The number of frames of the clips that the network was made for."""
        return 1

    def latent_shape(self, resolution: int) -> Shape:
        """The shape of one item's latents, as ``predict`` takes them."""
        side = resolution // self.pixel_factor
        return (self.latent_channels(self.vae_config), side, side)

    def tokens(self, resolution: int) -> int:
        """The number of image tokens, on which a scheduler may let its shift depend."""
        return (resolution // self.pixel_multiple) ** 2

    @classmethod
    def distilled(cls, index: Mapping[str, Any], network_config: Any, scheduler: Any) -> str:
        """Why a model is one of few steps, which DPO would blur; empty where it is none."""
        return ""

    @classmethod
    def check_registered(cls, settings: Mapping[str, Any]) -> None:
        """Check the settings of a pipeline besides its components. Raises UserError for one under
        which it is no model that can be trained here."""

    @property
    def vae(self) -> Any:
        """The autoencoder, where it is loaded."""
        return self.pipeline.vae

    def text_encoders(self) -> list[Any]:
        """The frozen text encoders, where they are loaded."""
        encoders = [getattr(self.pipeline, name) for name in self.encoder_names[1:]]
        return [encoder for encoder in encoders if encoder is not None]

    def tokenizers(self) -> list[Any]:
        """The tokenizers of the text encoders."""
        names = map(tokenizer_of, self.encoder_names[1:])
        return [one for name in names if (one := getattr(self.pipeline, name)) is not None]

    @classmethod
    def text_length_is_free(cls) -> bool:
        """Whether the pipeline's call takes a number of tokens, and its network any number."""
        return "max_sequence_length" in inspect.signature(cls.pipeline_class.__call__).parameters

    def limit_text(self, length: int) -> None:
        """Read so many tokens of a prompt, in training and sampling alike.

        Raises UserError for a family whose pipeline does not let the number be chosen.
        """
        if not self.text_length_is_free():
            raise UserError(
                f"--max_sequence_length {length}: {self.pipeline_class.__name__} reads prompts of"
                " one length; leave it out"
            )
        self.text_options = {"max_sequence_length": length}

    def encoders(self) -> list[Any]:
        """All frozen components that are loaded."""
        return [*([self.vae] if self.vae else []), *self.text_encoders()]

    def move_encoders(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move the frozen components to a device, in the precision of a network in ``dtype``."""
        if self.vae:
            # On a CPU channels_last makes the autoencoder faster, in bfloat16 twice as fast. It is
            # a layout of four axes.
            flat = all(weight.dim() <= 4 for weight in self.vae.parameters())
            last = device.type == "cpu" and flat
            layout = torch.channels_last if last else torch.preserve_format
            self.vae.to(device, vae_dtype(dtype), memory_format=layout)
        for encoder in self.text_encoders():
            in_precision(encoder, dtype).to(device)

    def freeze_encoders(self) -> None:
        """Make the frozen components that are loaded give no gradient."""
        for encoder in self.encoders():
            encoder.requires_grad_(False).eval()

    def free_encoders(self, names: Sequence[str]) -> None:
        """Free the memory of the frozen components of these ``names``."""
        for name in names:
            setattr(self.pipeline, name, None)

    @torch.no_grad()
    def encode_images(self, pixels_NCHW: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the latent posteriors, float32, ``chunk`` at a time, in the scale
        that ``normalise`` takes, of pixels in [−1, 1] or bytes."""
        means, stds = [], []
        for pixels in on_device(pixels_NCHW, self.vae.device).split(chunk):
            mean, std = self.posterior(from_bytes(pixels).to(self.vae.dtype))
            # The channels_last layout must not reach the network, which rounds otherwise in it.
            # Latents on disk have the autoencoder's precision, so these have it as well.
            means.append(mean.to(self.vae.dtype).float().contiguous())
            stds.append(std.to(self.vae.dtype).float().contiguous())
        return torch.cat(means), torch.cat(stds)

    def posterior(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of some images."""
        raise NotImplementedError

    def normalise(self, latents: Tensor) -> Tensor:
        """A sample of the posterior in the scale that the network works in."""
        return latents

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Embeddings of ``B`` prompts, each value with ``B`` rows, as sampling makes them. The
        empty prompt stands for none: it gets what guidance leads away from."""
        raise NotImplementedError

    def cut_prompts(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are longer than the text encoders read, and lose their end."""
        raise NotImplementedError

    @property
    def longest_prompt(self) -> int:
        """The number of tokens that the text encoders read, begin and end included."""
        raise NotImplementedError

    @classmethod
    def check_autoencoder(cls, config: Any) -> None:
        """Raises UserError where latents would be normalised otherwise than its pipeline does."""
        raise NotImplementedError

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        """Raises UserError where a network's configuration does not fit what it is given."""
        raise NotImplementedError

    @classmethod
    def blank_inputs(
        cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Condition]:
        """Latents, timestep and condition of one small item, with shapes and no numbers, of what
        autoencoder and text encoders give; ``config`` is the network's."""
        raise NotImplementedError

    def size_condition(self, images: Sequence[CroppedImage], resolution: int) -> Condition:
        """The network's condition on the size and crop of each image; most families have none."""
        return {}

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        """The network's output, shape of ``noisy``: what ``Process.target`` says it should be.

        Scale and sign of timestep and output, packing and positions are known here alone.
        """
        raise NotImplementedError

    def sampling_options(self, guidance: float, count: int = 1) -> dict[str, Any]:
        """Arguments of the pipeline's call for guidance of this scale, with ``count`` prompts."""
        return {"guidance_scale": guidance}

    def pictures(self, output: Any) -> list[Image.Image]:
        """A picture of each item that the pipeline's call has made."""
        return output.images


def tokenizer_of(text_encoder: str) -> str:
    """The name of the tokenizer that belongs to a text encoder."""
    return text_encoder.replace("text_encoder", "tokenizer")


def pixels_per_cell(vae_config: Any) -> int:
    """Image pixels per latent cell of an autoencoder, along one side."""
    names = ("block_out_channels", "encoder_block_out_channels")
    blocks = next(blocks for name in names if (blocks := getattr(vae_config, name, None)))
    return 2 ** (len(blocks) - 1)


def square(size: Any, factor: int) -> int:
    """The side in pixels of a network's ``sample_size``.

    Raises UserError where it is missing or not square.
    """
    sides = set(size) if isinstance(size, (list, tuple)) else {size}
    if len(sides) > 1 or None in sides:
        raise UserError(
            f"the model's images are {short(size)} latent cells, no square; say --resolution"
        )
    return sides.pop() * factor


def in_precision(module: Any, dtype: torch.dtype) -> Any:
    """The module in ``dtype``; where it was loaded in it, it keeps the layers in float32 that its
    library keeps there. One whose weights are stored in fewer bits stays as it is."""
    kinds = {weight.dtype for weight in module.parameters()}
    if not kinds <= FLOATS or dtype in kinds <= {dtype, torch.float32}:
        return module
    return module.to(dtype)


def vae_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of the autoencoder beside a network in ``dtype``."""
    # Many overflow in float16; bfloat16 has the range of float32.
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
