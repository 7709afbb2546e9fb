"""Whether the strengths exist at all: every item must be linked to every other by a chain of
wins."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from diffdpo.ranking.cells import Cells, Codes


def groups_of(cells: Cells, size: int) -> list[Codes]:
    """The strongly connected components of "i won against j at least once", the unbeaten ones
    first.

    The likelihood has a finite maximum, unique up to a constant, if and only if there is one (Ford
    1957). A tie or a soft label below 1 is part of a win for either side. Tarjan's (1972)
    algorithm, without recursion."""
    both = cells.outcome < 1
    source = np.concatenate([cells.first, cells.second[both]])
    target = np.concatenate([cells.second, cells.first[both]])
    by_source = np.argsort(source, kind="stable")
    targets = target[by_source].tolist()
    bounds = np.searchsorted(source[by_source], np.arange(size + 1)).tolist()
    return [np.array(sorted(group)) for group in reversed(_tarjan(targets, bounds, size))]


def _tarjan(targets: list[int], bounds: list[int], size: int) -> list[list[int]]:
    """Components in the order in which they close: those that beat no one else first."""
    found: list[list[int]] = []
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
                    found.append(group)
    return found


def describe(groups: Sequence[Codes], items: Sequence[Hashable]) -> str:
    """Which groups no chain of wins links both ways, in one line."""
    shown = "; ".join(_named(group, items) for group in groups[:6])
    more = f"; … {len(groups) - 6} more" if len(groups) > 6 else ""
    return f"{len(groups)} groups of items that no chain of wins links both ways: {shown}{more}"


def _named(group: Codes, items: Sequence[Hashable]) -> str:
    names = ", ".join(str(items[code]) for code in group[:6])
    return f"[{names}, … {len(group)} items]" if len(group) > 6 else f"[{names}]"
