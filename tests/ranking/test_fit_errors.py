"""Standard errors of a fit: Fisher, sandwich and bootstrap, and how often intervals cover."""

import numpy as np
import pytest

from diffdpo.ranking import fit as fit_module
from diffdpo.ranking import fit_bradley_terry
from diffdpo.ranking.ties import TIES
from tests.ranking.games import random_games, random_table


def test_fisher_information_doubles_with_weights_but_the_sandwich_knows_they_are_no_new_games():
    pairs = random_games(6, 200)
    for interval, ratio in (("fisher", 2**-0.5), ("sandwich", 1.0)):
        once = fit_bradley_terry(pairs, interval=interval)
        twice = fit_bradley_terry(pairs, weight=np.full(200, 2.0), interval=interval)
        np.testing.assert_allclose(twice.strength, once.strength, atol=1e-10)
        np.testing.assert_allclose(twice.stderr, ratio * once.stderr, rtol=1e-8)


@pytest.mark.parametrize("ties", TIES)
def test_changing_the_reference_item_changes_the_covariance_linearly(ties):
    """Identities of BradleyTerry2's test-BTabilities: θ_k − θ_r has covariance M V Mᵀ, whatever
    constraint gave V."""
    table = random_table(6, 400)
    ranking = fit_bradley_terry(table, ties=ties, home=True)
    matrix = ranking.covariance.matrix
    np.testing.assert_allclose(matrix[:6].sum(axis=0), 0, atol=1e-12)  # sum-to-zero
    likelihood = fit_module.Likelihood(
        fit_module.read_comparisons(table, use_order=True).cells, 6, ties, True
    )
    x = np.concatenate(
        [ranking.strength, [ranking.home.value], [ranking.tie.value] if ranking.tie else []]
    )
    information = likelihood.information(likelihood.slopes(x))
    for reference in range(6):
        free = np.arange(len(x)) != reference
        corner = np.linalg.inv(
            information[np.ix_(free, free)]
        )  # the fit with θ_reference fixed at zero
        change = np.eye(len(x))[free]
        change[np.flatnonzero(free) < 6, reference] = -1
        np.testing.assert_allclose(change @ matrix @ change.T, corner, atol=1e-10)
        other = (reference + 1) % 6
        at = int(np.flatnonzero(np.flatnonzero(free) == other)[0])
        assert ranking.difference(other, reference).stderr == pytest.approx(
            corner[at, at] ** 0.5, rel=1e-8
        )


def test_soft_outcomes_give_the_same_strengths_as_fractions_of_wins_and_smaller_sandwich_errors():
    rng = np.random.default_rng(0)
    pairs = random_games(5, 400)
    share = rng.uniform(0.55, 0.75, 400)
    soft = fit_bradley_terry(pairs, outcome=share, interval="sandwich")
    split = {
        "winner": np.r_[pairs[:, 0], pairs[:, 1]],
        "loser": np.r_[pairs[:, 1], pairs[:, 0]],
        "weight": np.r_[share, 1 - share],
    }
    np.testing.assert_allclose(soft.strength, fit_bradley_terry(split).strength, atol=1e-10)
    # A soft label near the model's probability is far less noisy than a coin thrown with it.
    fisher = fit_bradley_terry(pairs, outcome=share).stderr
    assert (soft.stderr < 0.6 * fisher).all()
    bootstrap = fit_bradley_terry(pairs, outcome=share, interval="bootstrap", bootstrap_samples=300)
    np.testing.assert_allclose(soft.stderr, bootstrap.stderr, rtol=0.15)


@pytest.mark.parametrize("ties", TIES)
def test_bootstrap_sandwich_and_fisher_agree_where_the_model_holds(ties):
    table = random_table(5, 1500)
    by = {
        kind: fit_bradley_terry(table, ties=ties, home=True, interval=kind, bootstrap_samples=300)
        for kind in ("fisher", "sandwich", "bootstrap")
    }
    for kind in ("sandwich", "bootstrap"):
        if ties != "half":  # a half win is less noisy than the model of wins and losses says
            np.testing.assert_allclose(by[kind].stderr, by["fisher"].stderr, rtol=0.15)
    np.testing.assert_allclose(by["bootstrap"].stderr, by["sandwich"].stderr, rtol=0.15)
    assert by["bootstrap"].home.stderr == pytest.approx(by["sandwich"].home.stderr, rel=0.15)
    widths = [np.diff(by[kind].interval).mean() for kind in ("bootstrap", "sandwich")]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)


def test_bootstrap_is_a_function_of_the_seed():
    pairs = random_games(5, 300)
    first, again, other = (
        fit_bradley_terry(pairs, interval="bootstrap", bootstrap_samples=20, seed=seed)
        for seed in (1, 1, 2)
    )
    assert (first.interval == again.interval).all()
    assert (first.interval != other.interval).any()


def test_intervals_cover_as_often_as_they_say():
    strength, rank = np.linspace(-1, 1, 5), np.array([5, 4, 3, 2, 1])
    covered, ranked, rounds = 0, 0, 200
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        i = rng.integers(0, 5, 400)
        j = (i + rng.integers(1, 5, 400)) % 5
        won = rng.random(400) < 1 / (1 + np.exp(strength[j] - strength[i]))
        ranking = fit_bradley_terry(
            np.stack([np.where(won, i, j), np.where(won, j, i)], axis=1), level=0.9
        )
        low, high = ranking.interval.T
        best, worst = ranking.rank_interval.T
        covered += np.mean((low < strength) & (strength < high))
        ranked += np.mean((best <= rank) & (rank <= worst))
    assert covered / rounds == pytest.approx(0.9, abs=0.03)
    assert ranked / rounds >= 0.9
