"""What became of the rows of a data set of image pairs."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffdpo.image.reading.traps import Traps

MAX_BROKEN = 0.05  # share of broken rows: more are taken for a mistake in reading the data


@dataclass
class PairTally:
    """The number of pairs of the source, and of those left out, by reason."""

    rows: int = 0
    rankings: int | None = None  # that the pairs are from; None: each has a row of its own
    ties: int = 0
    unlabelled: int = 0
    without_prompt: int = 0
    several_captions: int = 0  # rows of whose captions one is drawn
    unread_columns: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    checked: bool = True  # False: images are checked as they are read
    traps: Traps | None = None  # None: not looked for


def too_many(broken: int, rows: int) -> bool:
    """Whether so many broken rows are a mistake in reading the data: over 5 %, and more than one"""
    return broken > max(1, MAX_BROKEN * rows)
