"""What a reward is: a judge of pictures under prompts, with the identity of its numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffdpo.engine.digests import text_digest
from diffdpo.errors import UserError

Score = Callable[[Sequence[Image.Image], Sequence[str]], np.ndarray]


def none_too_long(prompts: Sequence[str]) -> int:
    """0: a judge that reads no prompt cuts none."""
    return 0


@dataclass(frozen=True)
class Reward:
    """A judge of pictures: called with N pictures and their N prompts it gives N numbers, of which
    the higher is the better.

    ``identity`` holds by name all that the numbers depend on: the digest of the weights, the rule
    by which pictures are made small, the scale, the length of the text. It is printed with every
    figure, and names the table in which scores are stored. ``model`` is the network behind the
    function, None where there is none; ``too_long`` counts the prompts that it would cut.
    """

    name: str
    score: Score
    identity: Mapping[str, str]
    model: Any = None
    too_long: Callable[[Sequence[str]], int] = none_too_long

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        return self.score(pictures, prompts)

    def to(self, device: Any, dtype: Any) -> Reward:
        """The same reward with its model on ``device`` in ``dtype``, a torch.dtype."""
        if self.model is not None:
            self.model.to(device, dtype)
        return self

    @property
    def signature(self) -> str:
        """The identity in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.identity.items())


Row = Callable[..., Reward]  # (path of the weights or None) → reward


def rule(name: str, score: Score, version: str = "1") -> Row:
    """A row of the table for a function that has no weights; ``version`` is raised whenever its
    numbers change."""

    def row(path: str | None = None) -> Reward:
        if path is not None:
            raise UserError(f"--reward_model {name}={path}: {name} has no weights; leave it out")
        return Reward(name, score, {"rule": name, "version": version})

    return row


def own_rule(own: Any) -> Row:
    """A row for a function of the user's, whose identity is the text of its file.

    Raises TypeError where it is not a function.
    """
    if isinstance(own, Reward):
        return lambda path=None: own
    if not callable(own):
        raise TypeError("is not a function")
    name = getattr(own, "__qualname__", type(own).__qualname__)
    return rule(name, own, version=source_digest(own))


def source_digest(own: Any) -> str:
    """The digest of the file that defines an object; 'unknown' where there is none."""
    try:
        file = inspect.getsourcefile(own if inspect.isroutine(own) else type(own))
    except TypeError:
        file = None
    return text_digest(Path(file).read_text())[:16] if file and Path(file).is_file() else "unknown"
