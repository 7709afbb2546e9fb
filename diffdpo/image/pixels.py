"""From stored images to training pixels; both images of a pair are cropped and flipped alike."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

FULL_SIZE = "full size"  # in an image's info: (height, width) before a JPEG was decoded at less


def open_image(stored: Any, enough: int | None = None) -> Image.Image:
    """An upright RGB image from bytes, a path, a PIL image or a ``{"bytes", "path"}`` record.

    EXIF rotation is applied, transparent pixels are put on white, 16-bit and grey values are scaled
    to 8-bit RGB. With ``enough`` pixels a side, a JPEG of at least twice that size is decoded at
    1/2, 1/4 or 1/8 of it, never below ``enough``.

    Raises OSError or ValueError for a file that is no image, is cut short, or has so many pixels
    that it must be a decompression bomb.
    """
    if isinstance(stored, dict):
        stored = stored["bytes"] if stored.get("bytes") is not None else stored["path"]
    if stored is None:
        raise ValueError("empty")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = stored if isinstance(stored, Image.Image) else Image.open(as_file(stored))
            size = image.size
            if enough:  # the decoder then skips what scaling down would throw away
                image.draft(None, (enough, enough))
            image.load()
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as bomb:
            raise ValueError("more pixels than an honest image has") from bomb
        except SyntaxError as broken:  # Pillow's word for a damaged PNG
            raise ValueError(str(broken)) from broken
    upright = to_rgb(ImageOps.exif_transpose(image))
    # Orientations 5 to 8 exchange width and height.
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) > 4
    upright.info[FULL_SIZE] = (size[0], size[1]) if turned else (size[1], size[0])
    return upright


def as_file(stored: bytes | str | Path) -> io.BytesIO | str | Path:
    """An image as something that Pillow can open."""
    return io.BytesIO(stored) if isinstance(stored, bytes) else stored


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in 8-bit RGB, with transparent pixels on white."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float32)
        # Integer modes hold 16-bit samples; a float image holds either unit or byte values.
        top = 65535.0 if image.mode != "F" else (1.0 if values.max(initial=0) <= 1 else 255.0)
        image = Image.fromarray((values.clip(0, top) / top * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class Augmentation:
    """Flip and crop of both images of a pair.

    ``top`` and ``left`` are fractions of the margin that the crop leaves; 0.5 is the centre.
    """

    flip: bool = False
    top: float = 0.5
    left: float = 0.5


@dataclass(frozen=True)
class CroppedImage:
    """Size (height, width) and crop corner of an image in pixels, on which SDXL is conditioned."""

    original_size: tuple[int, int]
    crop_top_left: tuple[int, int]


@dataclass(frozen=True)
class PixelImage(CroppedImage):
    """An image as training pixels ``(3, H, W)`` in [−1, 1]."""

    pixels_CHW: Tensor


@dataclass(frozen=True)
class EncodedImage(CroppedImage):
    """An image as the posterior of its latents: mean and deviation ``(C, h, w)``, float32."""

    mean_CHW: Tensor
    std_CHW: Tensor


def frame(image: Image.Image, resolution: int, augmentation: Augmentation) -> PixelImage:
    """Scale the short side of an image to ``resolution``, flip it, and crop a square."""
    # SDXL's condition is the size before a JPEG was decoded at less.
    original_size = image.info.get(FULL_SIZE, (image.height, image.width))
    scale = resolution / min(image.size)
    size = max(resolution, round(image.width * scale)), max(resolution, round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    if augmentation.flip:
        image = ImageOps.mirror(image)
    left = round((image.width - resolution) * augmentation.left)
    top = round((image.height - resolution) * augmentation.top)
    image = image.crop((left, top, left + resolution, top + resolution))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
    return PixelImage(original_size, (top, left), pixels)
