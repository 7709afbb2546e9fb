"""The order of rows that are read from shards: shuffled over the whole set, and still read almost
in sequence.

A pure function of (seed, epoch, sizes of the groups, buffer). No random state is kept, so that the
number of a step is its position.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffdpo.draws import Purpose, generator


def buffered_order(rows_G: np.ndarray, seed: int, epoch: int, buffer: int) -> np.ndarray:
    """The permutation in which an epoch visits the rows of ``G`` groups, ``rows_G`` in each.

    The groups are put in a random sequence. The row that comes i-th in it gets the key i + buffer
    · u, u uniform in [0, 1), and rows are visited by their keys. So the i-th row is visited at a
    position p with |p − i| < buffer: whatever is read is needed for that long, and no longer.
    """
    # Item 2: items 0 and 1 of this purpose draw the orders without shards.
    random = generator(seed, Purpose.ORDER, item=2, draw=epoch)
    groups = random.permutation(len(rows_G))
    size_G = rows_G[groups]
    first_G = (np.cumsum(rows_G) - rows_G)[groups]
    place_N = np.arange(size_G.sum())
    sequence_N = np.repeat(first_G - (np.cumsum(size_G) - size_G), size_G) + place_N
    keys_N = place_N + buffer * random.random(len(place_N))
    # Stable: numpy's default sort may order equal keys otherwise on another machine.
    return sequence_N[np.argsort(keys_N, kind="stable")]


def interleaved(orders: Sequence[NDArray[np.int64]], seed: int, epoch: int) -> NDArray[np.int64]:
    """Several orders as one, in which each keeps its own and all come to their ends together.

    The i-th of n items gets the key (i + u) / n, u uniform in [0, 1): the first of all have of each
    order as many as its share, to one.
    """
    keys = []
    for number, order in enumerate(orders):
        # Item 3 and those after it: one of this purpose for each set.
        random = generator(seed, Purpose.ORDER, item=3 + number, draw=epoch)
        keys.append((np.arange(len(order)) + random.random(len(order))) / max(1, len(order)))
    return np.concatenate(list(orders))[np.argsort(np.concatenate(keys), kind="stable")]
