"""Ranks that are not ruled out: by differences that hold at once, not one by one."""

from statistics import NormalDist

import numpy as np
import pytest

from diffdpo.ranking import fit_bradley_terry
from tests.ranking.games import random_games


def scores(ranking):
    """(n, n): by how many standard errors item j lies above item i."""
    n = len(ranking.items)
    z = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                difference = ranking.difference(ranking.items[j], ranking.items[i])
                z[i, j] = difference.value / difference.stderr
    return z


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_an_item_is_surely_weaker_only_beyond_bonferronis_quantile(level):
    ranking = fit_bradley_terry(random_games(12, 1_500), level=level)
    z = scores(ranking)
    simultaneous = NormalDist().inv_cdf(1 - (1 - level) / 2 / 11)  # eleven differences an item
    marginal = NormalDist().inv_cdf(1 - (1 - level) / 2)
    best, worst = 1 + (z > simultaneous).sum(axis=1), 12 - (z < -simultaneous).sum(axis=1)
    assert ranking.rank_interval.tolist() == np.stack([best, worst], axis=1).tolist()
    # Pairs that marginal intervals would call sure, so that they would have been noticed.
    assert ((z > marginal) & (z < simultaneous)).sum() >= 5


def test_among_equal_items_one_in_twenty_is_falsely_ranked_not_one_in_four():
    items, rounds = 8, 150
    pairs = np.array([(i, j) for i in range(items) for j in range(i)])
    wrong, wrong_marginally = [], []
    for seed in range(rounds):
        wins = np.random.default_rng(seed).binomial(40, 0.5, len(pairs))
        rows = np.column_stack([pairs, wins])
        lost = np.column_stack([pairs[:, ::-1], 40 - wins])
        ranking = fit_bradley_terry(np.concatenate([rows, lost]))
        wrong.append((ranking.rank_interval != [1, items]).any(axis=1).mean())
        wrong_marginally.append((np.abs(scores(ranking)) > 1.96).any(axis=1).mean())
    assert np.mean(wrong) <= 0.07
    assert np.mean(wrong_marginally) > 0.15
