"""Random numbers as pure functions of a counter: (seed, purpose, item, draw) → generator.

Nothing here has state. A resumed run, another number of processes or another batch size therefore
meets the same numbers, and policy and reference see the same draw because there is only one.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

MASK = (1 << 64) - 1  # seeds, items and draws may be negative: draw −1 is the order of a sub-sample


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
    CAPTION = 11
    CANDIDATE = 12
    SIDE = 13
    QUEUE = 14
    HOLDOUT = 15
    MIXTURE = 16


def generator(seed: int, purpose: Purpose, item: int = 0, draw: int = 0) -> np.random.Generator:
    """A fresh generator for one use: Philox (Salmon et al. 2011), key (seed, purpose), counter
    (item, draw).

    Different arguments never share numbers, and the order of calls does not matter.
    """
    # The generator counts up from the first word: with item and draw in the last two, a stream has
    # 2^128 blocks before it would run into the next one.
    counter = np.array([0, 0, draw & MASK, item & MASK], dtype=np.uint64)
    key = np.array([seed & MASK, int(purpose)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))


def picked_rows(seed: int, count: int, size: int) -> np.ndarray:
    """At most ``count`` of ``size`` rows, by chance, in the order of the draw."""
    # Epoch −1 is none of the training's, so that the choice is independent of every order.
    return epoch_order(seed, -1, size)[:count]


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order in which epoch ``epoch`` visits ``size`` rows: a permutation, the same on every
    machine."""
    return generator(seed, Purpose.ORDER, draw=epoch).permutation(size)
