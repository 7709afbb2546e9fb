"""A reward: how colourful a picture is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from diffdpo.metrics.pixels import as_rgb


def colourfulness(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
    """√(σ_rg² + σ_yb²) + 0.3 √(μ_rg² + μ_yb²) on 8-bit opponent colours (Hasler & Süsstrunk 2003,
    eq. 7)."""
    return np.array([_one(np.asarray(as_rgb(picture), dtype=np.float64)) for picture in pictures])


def _one(rgb: np.ndarray) -> float:
    red, green, blue = np.moveaxis(rgb, -1, 0)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))
