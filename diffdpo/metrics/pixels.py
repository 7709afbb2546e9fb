"""How a picture is made small for a network: the image rules of public rewards, in Pillow.

No image processor of another library: what those do depends on what else is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from diffdpo.data.modes import to_rgb
from diffdpo.engine.console import say

# Of the pictures that CLIP was trained on (Radford et al. 2021); BLIP and HPS took them over.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageRule:
    """From an RGB picture to the values ``(side, side, 3)`` in [0, 1] of a square; ``text`` names
    the rule in identities."""

    text: str
    square: Callable[[Image.Image, int], np.ndarray]

    def pixels(self, pictures: Sequence[Image.Image], side: int) -> np.ndarray:
        """Pictures of any mode as a network's input ``(N, 3, side, side)``, float32.

        Raises BadImage for 32-bit values of which it cannot be told which is white.
        """
        squares = [self.square(as_rgb(picture), side) for picture in pictures]
        mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
        scaled = (np.stack(squares).astype(np.float32) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture in 8-bit RGB; transparent pixels are put on white, which is said once."""
    if picture.has_transparency_data:
        tell_transparent()
    return to_rgb(picture)


@lru_cache(maxsize=1)
def tell_transparent() -> None:
    """Say that a picture has transparent pixels."""
    say("note         a picture is transparent: rewards see it on white")


def cropped(picture: Image.Image, side: int, left_over: Callable[[int], int]) -> np.ndarray:
    """The middle square of a picture, its short side resized to ``side`` in 8 bits, antialiased.

    ``left_over`` tells how much of a margin lies before the square.
    """
    short = min(picture.size)
    width, height = (side if size == short else int(side * size / short) for size in picture.size)
    small = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = left_over(width - side), left_over(height - side)
    return np.asarray(small.crop((left, top, left + side, top + side)), np.float32) / 255


def padded(picture: Image.Image, side: int) -> np.ndarray:
    """The whole of a picture, its long side resized to ``side``, on black.

    The values are resized as floats, antialiased, and may leave [0, 1] beside edges.
    """
    scale = side / max(picture.size)
    width, height = (max(1, round(size * scale)) for size in picture.size)
    values = np.asarray(picture, np.float32) / 255
    square = np.zeros((side, side, 3), np.float32)
    left, top = (side - width) // 2, (side - height) // 2
    for channel in range(3):
        one = Image.fromarray(np.ascontiguousarray(values[..., channel]))
        small = one.resize((width, height), Image.Resampling.BICUBIC)
        square[top : top + height, left : left + width, channel] = np.asarray(small)
    return square


# The two libraries that the public rewards used put the square of an odd margin half a pixel apart.
CROP = ImageRule("8-bit bicubic crop", lambda picture, side: cropped(picture, side, half_down))
CROP_EVEN = ImageRule(
    "8-bit bicubic crop (halves to even)", lambda picture, side: cropped(picture, side, half_even)
)
PAD = ImageRule("float bicubic on black", padded)


def half_down(margin: int) -> int:
    """Half of a margin, rounded down: transformers' CLIP processor."""
    return margin // 2


def half_even(margin: int) -> int:
    """Half of a margin, a half rounded to even: torchvision's CenterCrop."""
    return round(margin / 2)
