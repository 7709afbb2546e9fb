"""Which pairs are kept out of training: whole groups, by chance, as a pure function of the seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from diffdpo.draws import Purpose, generator
from diffdpo.errors import UserError


def groups(names: Iterable[Sequence[str]]) -> np.ndarray:
    """The number of each pair's group ``(P,)``, counted as they first appear.

    ``names`` are what a pair consists of, its prompt and its pictures. Pairs that have one in
    common, or are linked by others that do, are in one group: they are not independent, and a
    policy that was trained on one of them knows something of the others.
    """
    parent: list[int] = []
    first: dict[str, int] = {}  # of every name, a pair that has it

    def root(pair: int) -> int:
        while parent[pair] != pair:
            parent[pair] = parent[parent[pair]]
            pair = parent[pair]
        return pair

    for pair, own in enumerate(names):
        parent.append(pair)
        for name in own:
            a, b = root(pair), root(first.setdefault(name, pair))
            parent[max(a, b)] = min(a, b)
    roots = np.array([root(pair) for pair in range(len(parent))], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1]


def held_out(group_P: np.ndarray, wanted: float, seed: int, flag: str = "holdout") -> np.ndarray:
    """The pairs that are kept out, as a mask ``(P,)``: groups in a random order, each as far as it
    fits into the number ``wanted``, a share of all pairs where it is below 1. ``flag`` is the one
    that says so.

    Raises UserError where no group fits, and where none would be left to train on.
    """
    size_G = np.bincount(group_P)
    room = count = max(1, round(wanted * len(group_P))) if wanted < 1 else int(wanted)
    if count >= len(group_P):
        raise UserError(
            f"--{flag} {wanted:g}: there are {len(group_P):,} pairs; some must be left to train on"
        )
    taken_G = np.zeros(len(size_G), dtype=bool)
    for group in generator(seed, Purpose.HOLDOUT).permutation(len(size_G)):
        if size_G[group] <= room:
            taken_G[group], room = True, room - size_G[group]
    if not taken_G.any():
        raise UserError(
            f"--{flag} {wanted:g}: {count:,} pairs, but those that share a prompt or a picture"
            f" stay together, and the smallest group has {size_G.min():,}; hold out that many"
        )
    return taken_G[group_P]
