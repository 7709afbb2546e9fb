"""The length-controlled win rate: closed forms, and simulated judges that look at lengths."""

import numpy as np
import pytest

from diffdpo.metrics.intervals import clustered_share
from diffdpo.metrics.length_control import PRIOR, at_equal_lengths, length_controlled


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def judged(quality, taste, shift, size=1200, seed=0):
    """Wins of a judge that weighs quality and length, with the gap of the lengths."""
    random = np.random.default_rng(seed)
    gap = random.normal(shift, 40, size)
    wins = random.random(size) < sigmoid(quality + taste * np.tanh(gap / gap.std()))
    return wins.astype(float), gap, [f"prompt {n // 2}" for n in range(size)]


def test_wins_by_length_alone_are_no_wins():
    wins, gap, prompts = judged(quality=0, taste=3, shift=60)
    assert clustered_share(wins, prompts).interval[0] > 0.8  # what the plain rate says
    found = length_controlled(wins, gap, prompts)
    assert found.interval[0] < 0.5 < found.interval[1]
    assert abs(found.value - 0.5) < 0.12
    assert (found.n, found.clusters, found.method) == (1200, 600, "bootstrap")


def test_quality_is_found_beside_a_taste_for_length():
    wins, gap, prompts = judged(quality=0.8, taste=2, shift=-40)
    found = length_controlled(wins, gap, prompts)
    assert found.value == pytest.approx(sigmoid(0.8), abs=0.05)
    assert found.interval[0] < sigmoid(0.8) < found.interval[1]
    assert clustered_share(wins, prompts).value < 0.5  # the plain rate says the opposite


def test_a_judge_that_takes_the_longer_one_always_gives_one_half():
    gap = np.array([-30.0, -20, -10, -5, 5, 10, 20, 30] * 3)
    found = length_controlled(gap > 0, gap, list(range(24)))
    assert found.value == pytest.approx(0.5, abs=1e-9)


def test_equal_lengths_leave_the_plain_rate():
    wins, prompts = [1, 1, 0, 0.5] * 10, [n // 2 for n in range(40)]
    assert length_controlled(wins, [7] * 40, prompts) == clustered_share(wins, prompts)
    assert length_controlled([1] * 12, range(12), range(12)) == clustered_share([1] * 12, range(12))


def test_the_fit_is_where_the_likelihood_is_flat():
    """θ̂ from the rate; φ̂ from the second equation by bisection; then the first must hold."""
    wins, gap, _ = judged(quality=-0.4, taste=1.5, shift=20, size=60, seed=3)
    length, weight = np.tanh(gap / gap.std()), np.random.default_rng(1).integers(0, 4, 60)
    rate = at_equal_lengths(wins, length, weight[None].astype(float))[0]
    theta, low, high = np.log(rate / (1 - rate)), -50.0, 50.0
    for _ in range(200):
        phi = (low + high) / 2
        slope = weight @ ((wins - sigmoid(theta + phi * length)) * length) - phi / PRIOR**2
        low, high = (phi, high) if slope > 0 else (low, phi)
    assert abs(phi) > 0.1
    assert weight @ (wins - sigmoid(theta + phi * length)) == pytest.approx(0, abs=1e-6)


def test_few_prompts_have_wilsons_interval():
    wins, gap, prompts = judged(quality=0, taste=1, shift=0, size=12)
    found = length_controlled(wins, gap, prompts)
    assert (found.clusters, found.method) == (6, "wilson")
    assert found.interval[1] - found.interval[0] > 0.4
