"""Rows of like length meet in a step, and the order stays a function of (seed, epoch)."""

import numpy as np
import pytest

from diffdpo.engine.batches import Rows, Stream
from diffdpo.text.reading.order import ByLength
from diffdpo.text.tokens.row_reader import TextItem

LENGTHS = np.random.default_rng(0).integers(1, 100, 203)


class Lengths(Rows):
    """Rows of the given lengths in the order of every plain data set."""

    fingerprint = "x"

    length_I = LENGTHS + 3

    def __init__(self):
        self.items = [
            TextItem(row, [1] * 3, ([1] * length, [1])) for row, length in enumerate(LENGTHS)
        ]

    def __len__(self):
        return len(self.items)

    def read(self, row, visit):
        return self.items[row]


@pytest.mark.parametrize("batch", [1, 4, 7, 300])
def test_every_epoch_sees_every_row_once(batch):
    by_length = ByLength(Lengths(), batch)
    orders = [by_length.order(0, epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(203)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert np.array_equal(orders[1], ByLength(Lengths(), batch).order(0, 1))


def test_steps_hold_rows_of_like_length_in_any_order_of_length():
    stream = Stream(ByLength(Lengths(), 4), seed=0)
    sizes = np.array([len(stream[position].completions[0]) for position in range(4 * 203)]).reshape(
        -1, 4
    )
    plain = Stream(Lengths(), seed=0)
    by_chance = np.array(
        [len(plain[position].completions[0]) for position in range(4 * 203)]
    ).reshape(-1, 4)
    assert np.ptp(sizes, axis=1).mean() < 0.1 * np.ptp(by_chance, axis=1).mean()
    # Rising about as often as falling: the steps of a window are shuffled, not sorted.
    tops = sizes.max(axis=1)[:50]
    assert 10 < (np.diff(tops) > 0).sum() < 40
