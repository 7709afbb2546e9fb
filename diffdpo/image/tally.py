"""What became of the rows of a data set of image pairs."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffdpo.image.traps import Traps


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
