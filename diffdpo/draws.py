"""Every random thing is a pure function of a counter: (seed, what for, which item, which draw) →
generator.

Nothing here has state, so a resumed run, another number of processes or another batch size meets
the same numbers, and policy and reference see the same draw because there is only one.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

MASK = (1 << 64) - 1


class Purpose(IntEnum):
    """What a draw is for. The numbers are part of every published result: append, never
    renumber."""

    ORDER = 0
    TIMESTEP = 1
    NOISE = 2
    POSTERIOR_CHOSEN = 3
    POSTERIOR_REJECTED = 4
    FLIP = 5
    CROP = 6
    PROMPT_DROPOUT = 7
    SAMPLE = 8
    BOOTSTRAP = 9
    LABEL_NOISE = 10


def generator(seed: int, purpose: Purpose, item: int = 0, draw: int = 0) -> np.random.Generator:
    """A fresh generator for one use, on the Philox counter (Salmon et al. 2011): key (seed,
    purpose), counter (item, draw). Two different arguments never share numbers, and the order of
    calls does not matter."""
    counter = np.array([0, 0, draw & MASK, item & MASK], dtype=np.uint64)
    key = np.array([seed & MASK, int(purpose)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order in which epoch ``epoch`` visits ``size`` rows: a permutation, the same on every
    machine."""
    return generator(seed, Purpose.ORDER, draw=epoch).permutation(size)
