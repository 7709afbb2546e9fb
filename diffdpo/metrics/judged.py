"""Asks a reward for scores and checks what it gives.

A reward may be a user's own function: it may fail, or give anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from diffdpo.errors import UserError, short

Names = Sequence[str]


def judged(name: str, reward: Callable[..., Any], names: Names, *columns: Sequence[Any]) -> Any:
    """The scores ``(N,)``, float64, that a reward gives to the rows of ``columns``.

    ``names`` say for each row what it is. Raises UserError, with the first row concerned, where the
    reward fails or gives anything but one finite number a row.
    """
    try:
        given = reward(*columns)
    except UserError:
        raise
    except Exception as error:  # whatever the own code of a user raises
        raise UserError(
            f"--reward {name}: {failure(error)}{culprit(reward, names, columns)}"
        ) from error
    try:
        scores = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--reward {name}: gives {type(given).__name__} that is no array of numbers"
            f" ({short(error)})"
        ) from error
    if scores.shape != (len(names),):
        raise UserError(
            f"--reward {name}: gives numbers of shape {scores.shape} for {len(names)} items; one"
            f" number each, shape ({len(names)},), is needed"
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise UserError(
            f"--reward {name}: {len(bad)} of {len(scores)} scores are not finite, the first is"
            f" {scores[bad[0]]} for {names[bad[0]]}"
        )
    return scores


def scores_of(
    name: str,
    reward: Callable[..., Any],
    names: Names,
    pictures: Sequence[Any],
    prompts: Sequence[Any],
    batch: int,
    label: str | None = None,
) -> np.ndarray:
    """The scores ``(N,)`` of pictures, ``batch`` of them at once; ``label`` shows a progress bar.

    Raises UserError as ``judged`` does.
    """

    def of(part: slice) -> np.ndarray:
        return judged(name, reward, names[part], pictures[part], prompts[part])

    return by_parts(of, len(pictures), batch, label)


def faced(
    reward: Any,
    first: Sequence[Any],
    second: Sequence[Any],
    prompts: Sequence[Any],
    batch: int,
    label: str | None = None,
) -> np.ndarray:
    """Whether the first of two pictures, or texts, is the better one, ``(N,)``: 1, 0, or ½ for a
    tie, by a reward that looks at both; ``batch`` of them at once."""

    def of(part: slice) -> np.ndarray:
        wins: np.ndarray = reward.versus(first[part], second[part], prompts[part])
        return wins

    return by_parts(of, len(prompts), batch, label)


def by_parts(
    of: Callable[[slice], np.ndarray], count: int, batch: int, label: str | None
) -> np.ndarray:
    """What ``of`` says of ``count`` rows, ``batch`` of them at once; ``label`` shows a bar."""
    parts = [slice(start, start + batch) for start in range(0, count, batch)]
    # Closed where a reward fails as well, so that the line on it is one of its own.
    with tqdm(parts, desc=label, unit="batch", disable=label is None) as bar:
        found = [of(part) for part in bar]
    return np.concatenate(found) if found else np.empty(0)


def culprit(reward: Callable[..., Any], names: Names, columns: Sequence[Sequence[Any]]) -> str:
    """' for …': the first row on which the reward fails alone; '' where it fails on none."""
    for row, name in enumerate(names):
        try:
            reward(*(column[row : row + 1] for column in columns))
        except Exception:  # as above
            return f" for {name}"
    return ""


def failure(error: Exception) -> str:
    """An exception of the user's code in a few words."""
    return f"fails with {type(error).__name__}: {short(error)}" if str(error) else repr(error)
