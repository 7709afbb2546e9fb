"""Two rewards: how well, or how badly, a picture compresses."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from diffdpo.metrics.pixels import as_rgb


def jpeg_compressibility(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
    """Minus the size of the JPEG at quality 95, in kB (the reward of Black et al. 2023, DDPO)."""
    return np.array([-_kilobytes(picture) for picture in pictures])


def jpeg_incompressibility(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
    """The size of the JPEG in kB: detail is preferred."""
    return -jpeg_compressibility(pictures, prompts)


def _kilobytes(picture: Image.Image) -> float:
    buffer = io.BytesIO()
    as_rgb(picture).save(buffer, format="JPEG", quality=95)
    return buffer.tell() / 1000
