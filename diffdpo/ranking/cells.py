"""Comparisons added up. A million games of two hundred items are at most eighty thousand different
ones.

Shapes: ``C`` cells, one per different comparison; items are integer codes here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Cells:
    """Different comparisons and how often each was made. The first item is the one with the larger
    share of the win."""

    first: Codes
    second: Codes
    # +1 where the first item was shown first (at home), −1 where the second was, 0 where neither.
    order: Codes
    # Share of the win that goes to the first item: 1, 1/2 for a tie, between them a soft label.
    outcome: Floats
    weight: Floats  # what one such comparison counts for in the likelihood
    count: Floats  # how many such comparisons were made; a whole number

    def where(self, kept: NDArray[np.bool_] | Codes) -> Cells:
        return Cells(*(column[kept] for column in vars(self).values()))


def summed(code: Codes, values: Floats, size: int = 0) -> Floats:
    """The sum of the values that belong to each code."""
    return np.bincount(code, values, size).astype(np.float64, copy=False)


def oriented(cells: Cells) -> Cells:
    """The same comparisons with the items swapped where the second had the larger share."""
    swap = cells.outcome < 0.5
    if not swap.any():
        return cells
    return replace(
        cells,
        first=np.where(swap, cells.second, cells.first),
        second=np.where(swap, cells.first, cells.second),
        order=np.where(swap, -cells.order, cells.order),
        outcome=np.where(swap, 1 - cells.outcome, cells.outcome),
    )


def merged(cells: Cells) -> Cells:
    """Equal comparisons become one cell; cells nobody counted disappear."""
    cells = cells.where((cells.count > 0) & (cells.weight > 0))
    if not len(cells.first):
        return cells
    plain = (cells.weight == 1).all() and ((cells.outcome == 1) | (cells.outcome == 0.5)).all()
    size = int(max(cells.first.max(), cells.second.max())) + 1
    return _merged_plain(cells, size) if plain and size < 1 << 30 else _merged_any(cells)


def _merged_plain(cells: Cells, size: int) -> Cells:
    """Wins and ties of weight one: a cell is one integer, added up by a histogram where that is
    small."""
    key = ((cells.first * size + cells.second) * 3 + cells.order + 1) * 2 + (cells.outcome == 1)
    if size * size * 6 <= 4 * len(key) + (1 << 18):
        total = summed(key, cells.count)
        distinct = np.flatnonzero(total)
        count = total[distinct]
    else:
        distinct, inverse = np.unique(key, return_inverse=True)
        count = summed(inverse, cells.count)
    rest, won = np.divmod(distinct, 2)
    rest, order = np.divmod(rest, 3)
    first, second = np.divmod(rest, size)
    return Cells(first, second, order - 1, np.where(won, 1.0, 0.5), np.ones(len(count)), count)


def _merged_any(cells: Cells) -> Cells:
    """Soft labels and weights: sorted by all columns, equal neighbours added up."""
    columns = list(vars(cells).values())[:5]
    by_value = np.lexsort(columns[::-1])
    new = np.ones(len(by_value), dtype=bool)
    new[1:] = np.any([np.diff(column[by_value]) != 0 for column in columns], axis=0)
    start = np.flatnonzero(new)
    return replace(
        cells.where(by_value[start]), count=np.add.reduceat(cells.count[by_value], start)
    )


def concatenated(parts: list[Cells]) -> Cells:
    return Cells(
        *(
            np.concatenate(columns)
            for columns in zip(*(vars(part).values() for part in parts), strict=True)
        )
    )
