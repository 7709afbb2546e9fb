"""Draws for many items at once are those of their generators one by one."""

import numpy as np
import pytest

from diffdpo.data import coins
from diffdpo.data.coins import below
from diffdpo.draws import Purpose, generator


@pytest.mark.parametrize("seed", [0, 3, -1, 2**63])
def test_they_are_those_of_one_generator_each(seed):
    items = np.array([0, 1, 5, 1000, 2**31, 2**40])
    highs = np.array([1, 2, 3, 7, 10**9, 2**32 - 1])
    for shift in range(len(highs)):
        turned = np.roll(highs, shift)
        expected = [
            int(generator(seed, Purpose.CAPTION, item).integers(high))
            for item, high in zip(items.tolist(), turned.tolist(), strict=True)
        ]
        assert below(turned, seed, Purpose.CAPTION, items).tolist() == expected


def test_the_few_that_are_drawn_again_are_drawn_by_numpy(monkeypatch):
    """Of 3·2^30 numbers a third of the first words is refused."""
    asked = []
    monkeypatch.setattr(coins, "generator", lambda *a: asked.append(a) or generator(*a))
    items, high = np.arange(200), 3 * 2**30
    drawn = below(np.full(200, high), 1, Purpose.LABEL_NOISE, items)
    expected = [int(generator(1, Purpose.LABEL_NOISE, n).integers(high)) for n in range(200)]
    assert drawn.tolist() == expected
    assert 100 < len(asked) < 200  # three quarters have a remainder that may be refused


def test_none_are_drawn_of_none():
    assert len(below(np.array([], dtype=np.int64), 0, Purpose.CAPTION, np.array([]))) == 0
