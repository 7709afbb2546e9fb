"""The prompt of each row, from a caption, several captions, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from diffdpo.data.coins import below
from diffdpo.draws import Purpose
from diffdpo.errors import UserError, short


def prompts_of(captions: Sequence[Any], column: str, seed: int, first: int = 0) -> list[str]:
    """The prompts of rows from ``first`` on: the caption, or the empty prompt where there is none.

    Of several captions one is drawn, the same at every visit: stored embeddings and reference
    scores then hold for all of training. It is a function of seed and row.

    Raises UserError where a caption is no text.
    """
    prompts = [prompt(caption, column, row) for row, caption in enumerate(captions, first)]
    several = {row: texts for row, texts in enumerate(prompts, first) if isinstance(texts, list)}
    if not several:
        return cast(list[str], prompts)
    counts = np.array([len(texts) for texts in several.values()], dtype=np.int64)
    drawn = below(counts, seed, Purpose.CAPTION, np.array(list(several), dtype=np.int64))
    for (row, texts), number in zip(several.items(), drawn.tolist(), strict=True):
        prompts[row - first] = texts[number]
    return cast(list[str], prompts)


def prompt_of(caption: Any, column: str, seed: int, row: int) -> str:
    """The prompt of one row by itself, the same as among all."""
    if isinstance(caption, str):  # as nearly all are
        return caption
    (only,) = prompts_of([caption], column, seed, first=row)
    return only


def prompt(caption: Any, column: str, row: int) -> str | list[str]:
    """The prompt of one row, or those of which it is one."""
    if isinstance(caption, str):
        return caption
    several = isinstance(caption, list | tuple)
    texts = [text for text in (caption if several else [caption]) if text is not None]
    for text in texts:
        if not isinstance(text, str):
            raise UserError(
                f"data: column {short(column, 40)} holds {type(text).__name__} in row {row}"
                f" ({short(text, 40)}); a prompt is text, or a list of texts to draw one from"
            )
    return (texts if several else texts[0]) if texts else ""
