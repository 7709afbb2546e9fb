"""Conditions of a network: named tensors with a row for each item, some as long as their prompt.

A name ends in the shape of its value. ``NL`` means that rows may differ in length: they are padded
with zeros at their end, and ``mask_NL`` says which tokens are real.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

Condition = dict[str, Tensor]
MASK = "mask_NL"


def has_length(name: str) -> bool:
    """Whether the rows of a value have a length of their own."""
    return name.rsplit("_", 1)[-1].startswith("NL")


def widths(name: str, value: Tensor) -> list[int]:
    """The sizes of a value's axes, without those that count items and tokens."""
    axes = name.rsplit("_", 1)[-1]
    return [size for axis, size in zip(axes, value.shape, strict=True) if axis not in "NL"]


def joined(rows: Sequence[Condition]) -> Condition:
    """The condition of several items, from a row of each, padded to the longest."""
    return {
        name: (
            pad_sequence([row[name] for row in rows], batch_first=True)
            if has_length(name)
            else torch.stack([row[name] for row in rows])
        )
        for name in rows[0]
    }


def padded(name: str, rows: Iterable[Tensor]) -> Condition:
    """The condition of embeddings that have a length of their own, all of whose tokens are real."""
    return joined([{name: row, MASK: row.new_ones(len(row), dtype=torch.bool)} for row in rows])


def rows_of(condition: Condition) -> list[Condition]:
    """The row of each item, without padding."""
    count = len(next(iter(condition.values())))
    rows = [{name: value[n] for name, value in condition.items()} for n in range(count)]
    return [trimmed(row) for row in rows]


def trimmed(row: Condition) -> Condition:
    """A row without the padding at its end; without a mask nothing is padding."""
    if MASK not in row:
        return row
    real = row[MASK].nonzero()
    length = int(real[-1]) + 1 if len(real) else 1
    return {name: value[:length] if has_length(name) else value for name, value in row.items()}


def by_length(condition: Condition) -> list[tuple[list[int], Condition]]:
    """The items whose prompts have one length, with their condition, for each such length."""
    count = len(next(iter(condition.values())))
    lengths = condition[MASK].sum(dim=1).tolist() if MASK in condition else [0] * count
    groups = [[n for n in range(count) if lengths[n] == one] for one in sorted(set(lengths))]
    rows = rows_of(condition)
    return [(group, joined([rows[n] for n in group])) for group in groups]
