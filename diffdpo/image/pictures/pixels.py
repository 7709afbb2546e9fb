"""From stored images to training pixels; both images of a pair are cropped and flipped alike."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from diffdpo.data.decode import FULL_SIZE

STRIP = 4.0  # longer than this by wide, only the part that is kept is resized


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
    """An image as training pixels ``(3, H, W)``, bytes; a clip ``(3, F, H, W)``."""

    byte_CHW: Tensor

    @property
    def pixels_CHW(self) -> Tensor:
        """The pixels in [−1, 1], float32."""
        return from_bytes(self.byte_CHW)


@dataclass(frozen=True)
class EncodedImage(CroppedImage):
    """An image as the posterior of its latents: mean and deviation ``(C, h, w)``, float32; a clip
    ``(C, f, h, w)``."""

    mean_CHW: Tensor
    std_CHW: Tensor


def frame(
    image: Image.Image | list[Image.Image], resolution: int, augmentation: Augmentation
) -> PixelImage:
    """Scale the short side of an image to ``resolution``, flip it, and crop a square; of a clip
    all frames alike."""
    if isinstance(image, list):
        frames = [frame(one, resolution, augmentation) for one in image]
        return replace(frames[0], byte_CHW=torch.stack([one.byte_CHW for one in frames], dim=1))
    # SDXL's condition is the size before a JPEG was decoded at less.
    original_size = image.info.get(FULL_SIZE, (image.height, image.width))
    scale = resolution / min(image.size)
    size = max(resolution, round(image.width * scale)), max(resolution, round(image.height * scale))
    left = round((size[0] - resolution) * augmentation.left)
    top = round((size[1] - resolution) * augmentation.top)
    if max(size) > STRIP * resolution:
        image = part_of_strip(image, size, (left, top), resolution, augmentation.flip)
    else:
        if size != image.size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        if augmentation.flip:
            image = ImageOps.mirror(image)
        image = image.crop((left, top, left + resolution, top + resolution))
    return PixelImage(
        original_size, (top, left), torch.from_numpy(np.array(image)).permute(2, 0, 1)
    )


def from_bytes(byte: Tensor) -> Tensor:
    """Bytes as float32 in [−1, 1], with the same bits on every device; other types as they are."""
    if byte.dtype != torch.uint8:
        return byte
    # Divided by a tensor on the device: by a plain number a GPU multiplies with its reciprocal,
    # which rounds otherwise.
    return byte.float() / torch.full((), 127.5, device=byte.device) - 1


def part_of_strip(
    image: Image.Image, size: tuple[int, int], corner: tuple[int, int], side: int, flip: bool
) -> Image.Image:
    """The square at ``corner`` of the image scaled to ``size``, without scaling the rest: a strip
    of 60,000 x 1 pixels would become 30 million x 512."""
    if flip:
        image = ImageOps.mirror(image)
    x, y = image.width / size[0], image.height / size[1]
    left, top = corner[0] * x, corner[1] * y
    box = left, top, min(left + side * x, image.width), min(top + side * y, image.height)
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box)
