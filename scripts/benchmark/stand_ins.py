"""Replacements for the few functions of torchvision, wandb and xformers that the older
Diffusion-DPO scripts use, where these packages are missing."""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class Compose:
    """One transform after the other."""

    def __init__(self, steps: list[Callable[[Any], Any]]) -> None:
        self.steps = steps

    def __call__(self, image: Any) -> Any:
        for step in self.steps:
            image = step(image)
        return image


class Resize:
    """The shorter side becomes ``size`` pixels."""

    def __init__(
        self, size: int, interpolation: Image.Resampling = Image.Resampling.BILINEAR
    ) -> None:
        self.size, self.interpolation = size, interpolation

    def __call__(self, image: Image.Image) -> Image.Image:
        scale = self.size / min(image.size)
        shape = (int(image.width * scale), int(image.height * scale))
        return image if shape == image.size else image.resize(shape, self.interpolation)


class CenterCrop:
    """A square from the middle."""

    def __init__(self, size: int) -> None:
        self.size = size

    def corner(self, image: Image.Image) -> tuple[int, int]:
        """Left and top of the crop."""
        return (image.width - self.size) // 2, (image.height - self.size) // 2

    def __call__(self, image: Image.Image) -> Image.Image:
        left, top = self.corner(image)
        return image.crop((left, top, left + self.size, top + self.size))


class RandomCrop(CenterCrop):
    """A square from anywhere."""

    def corner(self, image: Image.Image) -> tuple[int, int]:
        left, top = (int(torch.randint(0, side - self.size + 1, ())) for side in image.size)
        return left, top


class RandomHorizontalFlip:
    """Mirrored, half of the time."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(()) < 0.5 else image


class Lambda:
    """Any function."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, image: Any) -> Any:
        return self.function(image)


class ToTensor:
    """Bytes as float32 in [0, 1], channels first."""

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)


class Normalize:
    """(x − mean) / std."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        self.mean, self.std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.sub(self.mean).div_(self.std)


def crop(image: Image.Image, top: int, left: int, height: int, width: int) -> Image.Image:
    """A rectangle."""
    return image.crop((left, top, left + width, top + height))


TRANSFORMS = [
    Compose,
    Resize,
    CenterCrop,
    RandomCrop,
    RandomHorizontalFlip,
    Lambda,
    ToTensor,
    Normalize,
]


def new_module(name: str, **contents: Any) -> ModuleType:
    """A module that ``importlib.util.find_spec`` accepts."""
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(contents)
    return made


def torchvision() -> dict[str, ModuleType]:
    """``from torchvision import transforms`` and ``transforms.functional.crop``."""
    functional = new_module("torchvision.transforms.functional", crop=crop)
    classes: dict[str, Any] = {kind.__name__: kind for kind in TRANSFORMS}
    transforms = new_module(
        "torchvision.transforms",
        functional=functional,
        InterpolationMode=Image.Resampling,
        **classes,
    )
    package = new_module("torchvision", transforms=transforms)
    return {module.__name__: module for module in (package, transforms, functional)}


def use_own_attention() -> None:
    """Report xformers as available; enabling it leaves the network's attention as it is."""
    import diffusers
    from diffusers.utils import import_utils

    def keep(network: Any, *_: Any, **__: Any) -> None:
        """PyTorch's scaled_dot_product_attention, diffusers' default."""

    import_utils.is_xformers_available = lambda: True
    network: Any = diffusers.UNet2DConditionModel
    network.enable_xformers_memory_efficient_attention = keep


MODULES: dict[str, Callable[[], dict[str, ModuleType]]] = {
    "torchvision": torchvision,
    "wandb": lambda: {"wandb": new_module("wandb")},
    "xformers": lambda: {"xformers": new_module("xformers", __version__="0.0.0")},
}
