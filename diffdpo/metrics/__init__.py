"""ADD A REWARD HERE: a function of pictures and prompts, one number a picture, higher is better;
one row below.

A row is a function without arguments that returns the reward, so that a model behind it is loaded
only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from diffdpo.metrics.bundled import bundled_style_reward
from diffdpo.metrics.colourfulness import colourfulness
from diffdpo.metrics.jpeg import jpeg_compressibility, jpeg_incompressibility

Reward = Callable[[Sequence[Image.Image], Sequence[str]], np.ndarray]

REWARDS: dict[str, Callable[[], Reward]] = {
    "style": bundled_style_reward,
    "colourfulness": lambda: colourfulness,
    "jpeg_compressibility": lambda: jpeg_compressibility,
    "jpeg_incompressibility": lambda: jpeg_incompressibility,
}
