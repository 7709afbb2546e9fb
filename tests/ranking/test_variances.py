"""Standard errors of many items: exact ones against a dense inverse, estimated ones against exact
ones, and what both say about coverage."""

from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from diffdpo.ranking import fit as fit_module
from diffdpo.ranking import fit_bradley_terry, newton, uncertainty
from diffdpo.ranking.elimination import Blocks
from tests.ranking.games import random_games, random_table


def chain(items):
    return np.array([(i, i + 1) for i in range(items - 1)])


def ring(items, neighbours):
    """Every item meets so many others next to it."""
    steps = range(1, neighbours // 2 + 1)
    return np.array([(i, (i + step) % items) for i in range(items) for step in steps])


def random_graph(items):
    return np.concatenate([ring(items, 2), random_games(items, 4 * items)])


GRAPHS = {
    "chain": chain,
    "10 neighbours": lambda items: ring(items, 10),
    "100 neighbours": lambda items: ring(items, 100),
    "random": random_graph,
}


def balanced(pairs, wins=5):
    """Everyone wins as often as they lose, so all strengths are zero."""
    rows = np.column_stack([pairs, np.full(len(pairs), wins)])
    return np.concatenate([rows, rows[:, [1, 0, 2]]])


def played(pairs, seed=0, home=0.0):
    """A table of games by the model, with ties, weights and a side for each item."""
    rng = np.random.default_rng(seed)
    strength = rng.normal(scale=0.7, size=pairs.max() + 1)
    pairs = np.repeat(pairs, 2 + 20_000 // len(pairs) // 10, axis=0)
    margin = strength[pairs[:, 0]] - strength[pairs[:, 1]] + home
    won = rng.random(len(pairs)) < 1 / (1 + np.exp(-margin))
    return {
        "winner": np.where(won, pairs[:, 0], pairs[:, 1]),
        "loser": np.where(won, pairs[:, 1], pairs[:, 0]),
        "tie": (rng.random(len(pairs)) < 0.2).astype(int),
        "weight": rng.uniform(0.5, 1.5, len(pairs)),
        "first": pairs[np.arange(len(pairs)), rng.integers(0, 2, len(pairs))],
    }


@pytest.mark.parametrize("graph", GRAPHS)
def test_above_two_thousand_items_standard_errors_are_those_of_the_dense_inverse(graph):
    pairs = GRAPHS[graph](2_100)
    ranking = fit_bradley_terry(balanced(pairs))
    information = np.zeros((2_100, 2_100))
    np.add.at(information, (pairs[:, 0], pairs[:, 1]), -2.5)  # ten games, each of variance 1/4
    information += information.T
    information -= np.diag(information.sum(axis=1))
    # 11ᵀ/n makes the common level visible and takes it away again.
    variance = np.diag(np.linalg.inv(information + 1 / 2_100)) - 1 / 2_100
    np.testing.assert_allclose(ranking.stderr, np.sqrt(variance), rtol=1e-8)
    np.testing.assert_allclose(ranking.interval[:, 1], 1.959964 * np.sqrt(variance), rtol=1e-6)
    assert "variance_samples" not in ranking.method


def test_a_chain_of_twenty_thousand_items_has_the_variances_of_a_random_walk():
    """Differences of neighbours are independent with variance 1/2.5, so Var θ_k is that of a walk
    from its mean."""
    n = 20_000
    k = np.arange(n)
    variance = (k * (k + 1) * (2 * k + 1) + (n - 1 - k) * (n - k) * (2 * (n - k) - 1)) / (6 * n**2)
    stderr = fit_bradley_terry(balanced(chain(n))).stderr
    np.testing.assert_allclose(stderr, np.sqrt(variance / 2.5), rtol=1e-7)


def fits(monkeypatch, table, **settings):
    """The same by the dense solver and by the one for many items."""
    dense = fit_bradley_terry(table, **settings)
    monkeypatch.setattr(fit_module, "DENSE_LIMIT", 10)
    return dense, fit_bradley_terry(table, **settings)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("interval", ["fisher", "sandwich"])
@pytest.mark.parametrize("ties", ["half", "davidson"])
@pytest.mark.parametrize("narrow", [0, 1000])
def test_exact_variances_do_not_depend_on_the_solver(monkeypatch, graph, interval, ties, narrow):
    """Uneven games with ties, weights and a home effect; by both kinds of solution."""
    monkeypatch.setattr(newton, "NARROW", narrow)
    table = played(GRAPHS[graph](250), home=0.3)
    settings = {"ties": ties, "home": True, "interval": interval, "prior_std": 2.0}
    dense, many = fits(monkeypatch, table, **settings)
    np.testing.assert_allclose(many.strength, dense.strength, atol=1e-8)
    np.testing.assert_allclose(many.stderr, dense.stderr, rtol=1e-7)
    assert many.home.stderr == pytest.approx(dense.home.stderr, rel=1e-7)
    if ties == "davidson":
        assert many.tie.stderr == pytest.approx(dense.tie.stderr, rel=1e-7)


@pytest.mark.parametrize("prior_std", [None, 0.1, 10.0, 1e6])
@pytest.mark.parametrize("interval", ["fisher", "sandwich"])
def test_exact_variances_with_and_without_a_prior(monkeypatch, prior_std, interval):
    settings = {"prior_std": prior_std, "interval": interval}
    table = balanced(ring(300, 6)) + [0, 0, 1] * (np.arange(1_800)[:, None] % 3)
    dense, many = fits(monkeypatch, table, **settings)
    np.testing.assert_allclose(many.stderr, dense.stderr, rtol=1e-6)


def test_exact_variances_of_items_that_only_a_prior_links(monkeypatch):
    pairs = np.concatenate([ring(100, 4), 100 + random_graph(150), 250 + chain(30)])
    dense, many = fits(monkeypatch, balanced(pairs), prior_std=1.5)
    assert len(many.groups) == 3
    np.testing.assert_allclose(many.stderr, dense.stderr, rtol=1e-8)


@pytest.mark.parametrize("graph", GRAPHS)
def test_blocks_are_linked_to_their_neighbours_alone(graph):
    from scipy.sparse import coo_matrix, identity

    pairs = GRAPHS[graph](700)
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(700, 700))
    blocks = Blocks.of((links + links.T + identity(700)).tocsr())
    assert sorted(blocks.order) == list(range(700))
    position = np.empty(700, dtype=int)
    position[blocks.order] = np.arange(700)
    block = np.searchsorted(blocks.bounds, position, side="right") - 1
    assert np.abs(block[pairs[:, 0]] - block[pairs[:, 1]]).max() <= 1
    assert blocks.widths.sum() == 700
    assert blocks.widths.min() > 0


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("interval", ["fisher", "sandwich"])
@pytest.mark.parametrize("ties", ["half", "davidson"])
def test_estimated_standard_errors_are_off_by_three_per_cent_on_any_graph(
    monkeypatch, graph, interval, ties
):
    table = played(GRAPHS[graph](250), home=0.3)
    settings = {"ties": ties, "home": True, "interval": interval, "prior_std": 2.0}
    exact = fit_bradley_terry(table, **settings)
    monkeypatch.setattr(fit_module, "DENSE_LIMIT", 10)
    monkeypatch.setattr(uncertainty, "EXACT_WORK", 0)
    estimated = fit_bradley_terry(table, **settings)
    assert estimated.method["variance_samples"] == uncertainty.SAMPLES == 512
    error = estimated.stderr / exact.stderr - 1
    assert np.abs(error).max() < 5 / np.sqrt(2 * 512)
    # Errors of neighbours in a chain go together, so only their size is sure, not their mean.
    assert 0.3 / np.sqrt(2 * 512) < np.sqrt((error**2).mean()) < 2 / np.sqrt(2 * 512)
    assert estimated.home.stderr == pytest.approx(exact.home.stderr, rel=1e-7)

    width = (estimated.interval[:, 1] - estimated.interval[:, 0]) / estimated.stderr / 2
    np.testing.assert_allclose(width, stats.t.ppf(0.975, 512), rtol=1e-9)


def test_the_sandwich_of_the_samples_is_a_sandwich(monkeypatch):
    """Soft labels near the model's probabilities: far smaller errors than the model's own."""
    table = played(random_graph(250))
    table["outcome"] = np.random.default_rng(1).uniform(0.55, 0.75, len(table["tie"]))
    soft = {"first": table["winner"], "second": table["loser"], "outcome": table["outcome"]}
    monkeypatch.setattr(fit_module, "DENSE_LIMIT", 10)
    monkeypatch.setattr(uncertainty, "EXACT_WORK", 0)
    fisher, sandwich = (
        fit_bradley_terry(soft, interval=kind).stderr for kind in ("fisher", "sandwich")
    )
    assert (sandwich < 0.6 * fisher).all()


@pytest.mark.parametrize("samples", [8, None])
def test_intervals_of_many_items_cover_as_often_as_they_say(monkeypatch, samples):
    """Exact, and with variances so roughly estimated (from 8 samples) that the normal quantile
    would cover 91.4 %, not 95 %."""
    monkeypatch.setattr(fit_module, "DENSE_LIMIT", 10)
    if samples:
        monkeypatch.setattr(uncertainty, "EXACT_WORK", 0)
        monkeypatch.setattr(uncertainty, "SAMPLES", samples)
        monkeypatch.setattr(uncertainty, "SAMPLES_AT_ONCE", samples)
    pairs, covered = np.concatenate([ring(200, 10), random_graph(200)]), []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        strength = rng.normal(scale=0.5, size=200)
        strength -= strength.mean()
        chance = 1 / (1 + np.exp(strength[pairs[:, 1]] - strength[pairs[:, 0]]))
        wins = rng.binomial(30, chance)
        rows = np.column_stack([pairs, wins])
        lost = np.column_stack([pairs[:, ::-1], 30 - wins])
        low, high = fit_bradley_terry(np.concatenate([rows, lost]), seed=seed).interval.T
        covered.append(np.mean((low < strength) & (strength < high)))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)


def test_simultaneous_intervals_of_many_items_use_the_quantile_for_all_of_them(monkeypatch):
    """The marginal intervals stretched by z(1 − 0.05/2n)/z(1 − 0.05/2): only what they then rule
    out is ruled out."""
    monkeypatch.setattr(fit_module, "DENSE_LIMIT", 10)
    ranking = fit_bradley_terry(random_table(40, 4_000))
    ratio = NormalDist().inv_cdf(1 - 0.05 / 80) / NormalDist().inv_cdf(1 - 0.05 / 2)
    half = ratio * np.diff(ranking.interval)[:, 0] / 2
    low, high = ranking.strength - half, ranking.strength + half
    best = 1 + (low[None, :] > high[:, None]).sum(axis=1)
    worst = 40 - (high[None, :] < low[:, None]).sum(axis=1)
    assert ranking.rank_interval.tolist() == np.stack([best, worst], axis=1).tolist()
    marginal = 1 + (ranking.interval[None, :, 0] > ranking.interval[:, None, 1]).sum(axis=1)
    assert (marginal > best).any()  # so that marginal intervals would have been noticed
