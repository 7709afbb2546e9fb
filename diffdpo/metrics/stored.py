"""Scores of rewards, computed once: named by the reward's identity and the content of what it
judges, so that they are found again, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Features, Value

from diffdpo.batched import batched
from diffdpo.cache.keys import Key, arithmetic
from diffdpo.cache.tables import table
from diffdpo.metrics.judged import judged
from diffdpo.metrics.reward import Identified

ROW = Features({"score": Value("float64"), "unreadable": Value("string")})


class Items(Protocol):
    """What is judged: N things, each under its prompt."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """A name that other items, or other prompts, do not have."""

    def named(self, number: int) -> str:
        """An item for a line to the user."""

    def read(self, number: int) -> tuple[Any, Any]:
        """The columns of an item, as a reward is called with them. Raises ValueError with the
        reason where it cannot be read."""


def signed_on(reward: Identified, device: torch.device) -> str:
    """All that a reward's numbers depend on: its signature and, where a network makes them, the
    kind of device."""
    where = [] if reward.model is None else [arithmetic(device)]
    return ", ".join([reward.signature, *where])


def stored_scores(
    name: str,
    reward: Callable[..., Any],
    signature: str,
    items: Items,
    root: str,
    batch: int,
    accelerator: Accelerator,
) -> tuple[np.ndarray, dict[int, str]]:
    """The scores ``(N,)`` of a reward, NaN for items that cannot be read, and the reasons of these.

    ``signature`` says all that its numbers depend on. ``batch`` items are in memory; processes
    share the work.

    Raises UserError where the reward fails, or where the folder ``root`` cannot be written.
    """

    def compute(span: range) -> Iterator[dict[str, Any]]:
        for numbers in batched(span, batch):
            yield from scored(name, reward, items, numbers)

    key = Key("judged", {"items": items.digest, "reward": signature})
    rows = table(root, key, ROW, len(items), compute, accelerator)
    reasons = {at: why for at, why in enumerate(rows["unreadable"][:]) if why is not None}
    return np.array(rows["score"][:], dtype=np.float64), reasons


def scored(
    name: str, reward: Callable[..., Any], items: Items, numbers: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of the table for these items."""
    found: dict[int, tuple[Any, Any]] = {}
    reasons: dict[int, str] = {}
    for number in numbers:
        try:
            found[number] = items.read(number)
        except ValueError as error:
            reasons[number] = str(error)
    scores: dict[int, float] = {}
    if found:
        columns = [list(column) for column in zip(*found.values(), strict=True)]
        names = [items.named(number) for number in found]
        scores = dict(zip(found, judged(name, reward, names, *columns).tolist(), strict=True))
    return [
        {"score": scores.get(number, float("nan")), "unreadable": reasons.get(number)}
        for number in numbers
    ]
