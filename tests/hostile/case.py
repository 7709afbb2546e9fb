"""A row of the table of bad inputs, and the material that rows are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Material:
    """What a case may use: an empty folder of its own, and good inputs to spoil a copy of.

    ``models(family, prediction_type)`` is the folder of a small pipeline, ``lm`` that of a tiny
    language model; ``pairs`` are image pairs, ``texts`` text files by kind. None of them may be
    written to.
    """

    folder: Path
    models: Callable[..., Path]
    lm: Path
    pairs: Path
    texts: dict[str, Path]


@dataclass(frozen=True)
class Bad:
    """A command that must end with ``code`` and one line on stderr.

    ``make`` writes the bad input and returns the flags. ``line`` is a regular expression that one
    of the error lines, without its "error: ", must match from its beginning. ``environment`` is
    what a launcher would set.
    """

    name: str
    command: str
    make: Callable[[Material], list[str]]
    line: str
    code: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
