"""Comparisons added up, and whether they link all items.

A million games of two hundred items are at most eighty thousand different ones, so nothing after
this step depends on the number of games.

Shapes: ``C`` cells, one per different comparison; items are integer codes here.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffdpo.errors import short

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
        """The cells that a mask or a list of positions keeps."""
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


def concatenated(batches: list[Cells]) -> Cells:
    """The cells of all batches, one after another."""
    columns = zip(*(vars(batch).values() for batch in batches), strict=True)
    return Cells(*(np.concatenate(column) for column in columns))


def groups_of(cells: Cells, size: int) -> list[Codes]:
    """The strongly connected components of "i won against j at least once", the unbeaten ones
    first.

    The likelihood has a finite maximum, unique up to a constant, if and only if there is one (Ford
    1957). A tie or a soft label below 1 is part of a win for either side. Tarjan's (1972)
    algorithm, without recursion.
    """
    both = cells.outcome < 1
    source = np.concatenate([cells.first, cells.second[both]])
    target = np.concatenate([cells.second, cells.first[both]])
    by_source = np.argsort(source, kind="stable")
    targets = target[by_source].tolist()
    bounds = np.searchsorted(source[by_source], np.arange(size + 1)).tolist()
    return [np.array(sorted(group)) for group in reversed(_tarjan(targets, bounds, size))]


def _tarjan(targets: list[int], bounds: list[int], size: int) -> list[list[int]]:
    """Components in the order in which they close: those that beat no one else first."""
    groups: list[list[int]] = []
    seen, low = [0] * size, [0] * size
    closed, stack, clock = [False] * size, [], 0
    at = bounds[:size]
    for root in range(size):
        path = [] if seen[root] else [root]
        while path:
            node = path[-1]
            if not seen[node]:
                clock += 1
                seen[node] = low[node] = clock
                stack.append(node)
            while at[node] < bounds[node + 1]:
                other = targets[at[node]]
                if not seen[other]:
                    path.append(other)
                    break
                if not closed[other]:
                    low[node] = min(low[node], low[other])
                at[node] += 1
            else:
                path.pop()
                if low[node] == seen[node]:
                    group = [stack.pop()]
                    while group[-1] != node:
                        group.append(stack.pop())
                    for member in group:
                        closed[member] = True
                    groups.append(group)
    return groups


def describe(groups: Sequence[Codes], items: Sequence[Hashable]) -> str:
    """Which groups no chain of wins links both ways, in one line."""
    shown = "; ".join(_named(group, items) for group in groups[:6])
    more = f"; … {len(groups) - 6} more" if len(groups) > 6 else ""
    return f"{len(groups)} groups of items that no chain of wins links both ways: {shown}{more}"


def _named(group: Codes, items: Sequence[Hashable]) -> str:
    names = ", ".join(short(items[code], 24) for code in group[:6])
    return f"[{names}, … {len(group)} items]" if len(group) > 6 else f"[{names}]"
