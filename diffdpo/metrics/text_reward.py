"""What a reward of texts is: a judge of completions after prompts, with the identity of its
numbers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffdpo.errors import UserError
from diffdpo.metrics.reward import Identified, source_digest

# A prompt is text, or a conversation: a list of {"role": …, "content": …}.
Prompts = Sequence[Any]
Texts = Sequence[str]


def none_cut(prompts: Prompts, completions: Texts) -> int:
    """0: a judge that reads texts of any length cuts none."""
    return 0


@dataclass(frozen=True)
class TextReward(Identified):
    """A judge of texts: called with N prompts and their N completions it gives N numbers, of which
    the higher is the better.

    ``identity`` holds by name all that the numbers depend on, as that of ``Reward`` does.
    ``model`` is the network behind it, None where there is none; ``too_long`` counts the texts
    that it would cut. One that ``reads_chats`` is given conversations where the data have them;
    to others a prompt is always text. ``versus`` is for a judge that looks at two completions at
    once.
    """

    name: str
    score: Callable[[Prompts, Texts], np.ndarray]
    identity: Mapping[str, str]
    model: Any = None
    too_long: Callable[[Prompts, Texts], int] = none_cut
    reads_chats: bool = False
    versus: Callable[[Texts, Texts, Prompts], np.ndarray] | None = None

    def __call__(self, prompts: Prompts, completions: Texts) -> np.ndarray:
        return self.score(prompts, completions)


TextRow = Callable[..., TextReward]  # (path of the weights or None) → reward


def later_text(module: str) -> TextRow:
    """A row of the table whose network is loaded by ``open_reward`` of a module of this package,
    which is imported only then."""

    def row(path: str | None = None) -> TextReward:
        opened: TextReward = importlib.import_module(f"{__package__}.{module}").open_reward(path)
        return opened

    return row


def of_whole_texts(
    name: str, judge: Callable[[Texts], Any], identity: Mapping[str, str]
) -> TextRow:
    """A row of the table for a function of whole texts, prompt and completion, without weights."""

    def score(prompts: Prompts, completions: Texts) -> Any:
        return judge([p + c for p, c in zip(prompts, completions, strict=True)])

    def row(path: str | None = None) -> TextReward:
        if path is not None:
            raise UserError(f"--reward_model {name}={path}: {name} has no weights; leave it out")
        return TextReward(name, score, identity)

    return row


def own_text_rule(own: Any) -> TextRow:
    """A row for a function of the user's that judges whole texts, whose identity is the text of
    its file. A ``TextReward`` is taken as it is.

    Raises TypeError where it is neither.
    """
    if isinstance(own, TextReward):
        return lambda path=None: own
    if not callable(own):
        raise TypeError("is not a function")
    name = getattr(own, "__qualname__", type(own).__qualname__)
    return of_whole_texts(name, own, {"rule": name, "version": source_digest(own)})
