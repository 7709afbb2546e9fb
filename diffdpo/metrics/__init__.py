"""ADD A REWARD HERE: a function of pictures and prompts, and one row in the table below.

A reward returns one number for each picture, higher is better. A row takes the path of its weights,
or nothing, and returns the reward, so that a model behind it is loaded only when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from diffdpo.errors import UserError
from diffdpo.extensions import named_row
from diffdpo.metrics.bundled import bundled_style_reward
from diffdpo.metrics.colourfulness import colourfulness
from diffdpo.metrics.jpeg import jpeg_compressibility, jpeg_incompressibility
from diffdpo.metrics.reward import Reward, Row, later, own_rule, rule
from diffdpo.metrics.sentiment import sentiment_reward
from diffdpo.metrics.text_reward import TextReward, TextRow, later_text, own_text_rule

Judge = TypeVar("Judge", Reward, TextReward)


REWARDS: dict[str, Row] = {
    "style": bundled_style_reward,
    "colourfulness": rule("colourfulness", colourfulness),
    "jpeg_compressibility": rule("jpeg_compressibility", jpeg_compressibility),
    "jpeg_incompressibility": rule("jpeg_incompressibility", jpeg_incompressibility),
    "pickscore": later("clip", "pickscore"),
    "hpsv2": later("clip", "hpsv2"),
    "hpsv2.1": later("clip", "hpsv2.1"),
    "clipscore": later("clip", "clipscore"),
    "laion_aesthetic": later("clip", "laion_aesthetic"),
    "imagereward": later("blip", "imagereward"),
    "vqascore": later("vqa", "vqascore"),
    "judge": later("judge", "judge"),
}
TEXT_REWARDS: dict[str, TextRow] = {
    "sentiment": sentiment_reward,
    "classifier": later_text("classifier"),
    "judge": later_text("text_judge"),
}

as_reward, as_text_reward = own_rule, own_text_rule


def reward_problems(
    names: Iterable[str],
    table: dict[str, Any],
    as_row: Callable[[Any], Any] = own_rule,
) -> list[str]:
    """A line for each name that is not in the table; a ``file.py:function`` is added to it."""
    lines: list[str] = []
    for name in names:
        try:
            named_row(name, table, "reward", as_row)
        except UserError as error:
            lines += error.mistakes
    return lines


def open_rewards(
    names: Iterable[str], paths: Mapping[str, str], device: Any, dtype: Any
) -> dict[str, Reward]:
    """The rewards of these names, loaded, on ``device`` in ``dtype``; ``paths`` are of weights.

    Raises UserError where one cannot be loaded.
    """
    return opened(REWARDS, names, paths, device, dtype)


def open_text_rewards(
    names: Iterable[str], paths: Mapping[str, str], device: Any, dtype: Any
) -> dict[str, TextReward]:
    """The same of texts."""
    return opened(TEXT_REWARDS, names, paths, device, dtype)


def opened(
    table: Mapping[str, Callable[..., Judge]],
    names: Iterable[str],
    paths: Mapping[str, str],
    device: Any,
    dtype: Any,
) -> dict[str, Judge]:
    """Rows of a table, loaded."""
    return {name: table[name](paths.get(name)).to(device, dtype) for name in names}
