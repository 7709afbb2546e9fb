"""ADD A REWARD HERE: a function of pictures and prompts, and one row in the table below.

A reward returns one number for each picture, higher is better. A row is a function without
arguments that returns the reward, so that a model behind it is loaded only when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from diffdpo.errors import UserError
from diffdpo.extensions import named_row
from diffdpo.metrics.bundled import bundled_style_reward
from diffdpo.metrics.colourfulness import colourfulness
from diffdpo.metrics.jpeg import jpeg_compressibility, jpeg_incompressibility
from diffdpo.metrics.sentiment import load_sentiment

Reward = Callable[[Sequence[Image.Image], Sequence[str]], np.ndarray]
TextReward = Callable[[Sequence[str]], np.ndarray]  # of prompts with their completions

REWARDS: dict[str, Callable[[], Reward]] = {
    "style": bundled_style_reward,
    "colourfulness": lambda: colourfulness,
    "jpeg_compressibility": lambda: jpeg_compressibility,
    "jpeg_incompressibility": lambda: jpeg_incompressibility,
}
TEXT_REWARDS: dict[str, Callable[[], TextReward]] = {"sentiment": load_sentiment}


def as_reward(own: object) -> Callable[[], Any]:
    """A row of either table from a user's own function. Raises TypeError for anything else."""
    if not callable(own):
        raise TypeError("is not a function")
    return lambda: own


def reward_problems(names: Iterable[str], table: dict[str, Callable[[], Any]]) -> list[str]:
    """A line for each name that is not in the table; a ``file.py:function`` is added to it."""
    lines: list[str] = []
    for name in names:
        try:
            named_row(name, table, "reward", as_reward)
        except UserError as error:
            lines += error.mistakes
    return lines
