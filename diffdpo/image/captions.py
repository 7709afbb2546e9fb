"""The prompt of each row, from a caption, several captions, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffdpo.draws import Purpose, generator
from diffdpo.errors import UserError, short


def prompts_of(captions: Sequence[Any], column: str, seed: int) -> list[str]:
    """The prompts of all rows: the caption, or the empty prompt where there is none.

    Of several captions one is drawn, the same at every visit: stored embeddings and reference
    scores then hold for all of training. It is a function of seed and row.

    Raises UserError where a caption is no text.
    """
    return [prompt(caption, column, seed, row) for row, caption in enumerate(captions)]


def prompt(caption: Any, column: str, seed: int, row: int) -> str:
    """The prompt of one row."""
    if isinstance(caption, list | tuple):
        texts = [text for text in caption if text is not None]
        if not texts:
            return ""
        caption = texts[generator(seed, Purpose.CAPTION, row).integers(len(texts))]
    if caption is None:
        return ""
    if not isinstance(caption, str):
        raise UserError(
            f"data: column {short(column, 40)} holds {type(caption).__name__} in row {row}"
            f" ({short(caption, 40)}); a prompt is text, or a list of texts to draw one from"
        )
    return caption
