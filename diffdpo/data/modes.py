"""Pictures of any mode in 8-bit RGB: grey, palettes, transparency, more than 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image


class BadImage(ValueError):
    """Something that cannot be read as an image; the reason in a few words."""


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in 8-bit RGB, with transparent pixels on white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float32)
        image = Image.fromarray((values / top_of(image.mode, values) * 255).round().astype("uint8"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def top_of(mode: str, values: np.ndarray) -> float:
    """The value that stands for white in a mode of more than 8 bits.

    Raises BadImage where that cannot be told: 32-bit numbers up to 255 may be dark 16-bit values or
    plain 8-bit ones, and no numbers beyond 16 bits or below 0 have a usual meaning.
    """
    if mode.startswith("I;16"):
        return 65535.0
    low, high = values.min(), values.max()
    if mode == "F" and low >= 0 and high <= 255:  # neither is true of NaN
        return 1.0 if high <= 1 else 255.0
    if mode == "I" and low >= 0 and (high == 0 or 255 < high <= 65535):
        return 65535.0
    raise BadImage(
        f"32-bit values from {low:g} to {high:g}: which is white? store it with 8 or 16 bits"
    )
