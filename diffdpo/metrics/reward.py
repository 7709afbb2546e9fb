"""What a reward is: a judge of pictures under prompts, with the identity of its numbers."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from diffdpo.engine.digests import text_digest
from diffdpo.errors import UserError

Pictures = Sequence[Image.Image]
Score = Callable[[Pictures, Sequence[str]], np.ndarray]
Compare = Callable[[Pictures, Pictures, Sequence[str]], np.ndarray]


def none_too_long(prompts: Sequence[str]) -> int:
    """0: a judge that reads no prompt cuts none."""
    return 0


class Identified:
    """What rewards of pictures and of texts have in common: the identity of their numbers, and the
    network behind them, None where there is none."""

    identity: Mapping[str, str]
    model: Any

    def to(self, device: Any, dtype: Any) -> Self:
        """The same reward with its model on ``device`` in ``dtype``, a torch.dtype."""
        if self.model is None:
            return self
        self.model.to(device, dtype)
        own: Any = self  # a dataclass
        precision = str(dtype).removeprefix("torch.")
        return replace(own, identity={**self.identity, "precision": precision})

    @property
    def signature(self) -> str:
        """The identity in one line."""
        return ", ".join(f"{name} {value}" for name, value in self.identity.items())


@dataclass(frozen=True)
class Reward(Identified):
    """A judge of pictures: called with N pictures and their N prompts it gives N numbers, of which
    the higher is the better.

    ``identity`` holds by name all that the numbers depend on: the digest of the weights, the rule
    by which pictures are made small, the scale, the length of the text. It is printed with every
    figure, and names the table in which scores are stored. ``model`` is the network behind the
    function, None where there is none; ``too_long`` counts the prompts that it would cut;
    ``versus`` is for a judge that looks at two pictures at once. One that ``reads_prompts`` says
    nothing of pictures without.
    """

    name: str
    score: Score
    identity: Mapping[str, str]
    model: Any = None
    too_long: Callable[[Sequence[str]], int] = none_too_long
    versus: Compare | None = None
    reads_prompts: bool = True

    def __call__(self, pictures: Pictures, prompts: Sequence[str]) -> np.ndarray:
        return self.score(pictures, prompts)

    def compare(self, first: Pictures, second: Pictures, prompts: Sequence[str]) -> np.ndarray:
        """Whether the first of two pictures is the better one, ``(N,)``: 1, 0, or 0.5 for a tie."""
        if self.versus is not None:
            return self.versus(first, second, prompts)
        gap = np.asarray(self(first, prompts)) - np.asarray(self(second, prompts))
        return (np.sign(gap) + 1) / 2


Row = Callable[..., Reward]  # (path of the weights or None) → reward


def without_weights(reward: Reward) -> Row:
    """A row of the table for a reward that has no weights to be named."""

    def row(path: str | None = None) -> Reward:
        if path is not None:
            name = reward.name
            raise UserError(f"--reward_model {name}={path}: {name} has no weights; leave it out")
        return reward

    return row


def rule(name: str, score: Score, version: str = "1") -> Row:
    """A row of the table for a function; ``version`` is raised whenever its numbers change."""
    # Whether a function reads prompts is not known; one that does meets empty ones.
    identity = {"rule": name, "version": version}
    return without_weights(Reward(name, score, identity, reads_prompts=False))


def later(module: str, name: str) -> Row:
    """A row of the table whose network is loaded by ``open_reward`` of a module of this package,
    which is imported only then."""

    def row(path: str | None = None) -> Reward:
        opened: Reward = importlib.import_module(f"{__package__}.{module}").open_reward(name, path)
        return opened

    return row


def own_rule(own: Any) -> Row:
    """A row for a function of the user's, whose identity is the text of its file.

    Raises TypeError where it is not a function.
    """
    if isinstance(own, Reward):
        return without_weights(own)
    if not callable(own):
        raise TypeError("is not a function")
    name = getattr(own, "__qualname__", type(own).__qualname__)
    return rule(name, own, version=source_digest(own))


def introduction(name: str, reward: Any, *read: Sequence[Any], noun: str = "prompts") -> list[str]:
    """The lines that introduce a reward of pictures or of texts: its identity, and how much it
    cuts of the columns of words that it ``read``s."""
    lines = [f"reward       {name}: {reward.signature}"]
    if cut := reward.too_long(*read):
        lines.append(f"note         {name} cuts {cut:,} of {len(read[0]):,} {noun}: too long")
    return lines


def source_digest(own: Any) -> str:
    """The digest of the file that defines an object; 'unknown' where there is none."""
    try:
        file = inspect.getsourcefile(own if inspect.isroutine(own) else type(own))
    except TypeError:
        file = None
    return text_digest(Path(file).read_text())[:16] if file and Path(file).is_file() else "unknown"
