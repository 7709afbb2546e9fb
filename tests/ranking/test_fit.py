"""The fit against independent methods, and its invariances."""

import warnings

import choix
import numpy as np
import pytest
import torch

from diffdpo.errors import UserError
from diffdpo.ranking import BradleyTerry, fit_bradley_terry
from diffdpo.ranking.ties import TIES
from tests.ranking.games import random_games, random_table

# An 8-item set of choix's tests, without a finite maximum unless there is a prior.
EIGHT = [
    (7, 3),
    (2, 0),
    (5, 2),
    (4, 2),
    (2, 1),
    (4, 5),
    (6, 3),
    (5, 4),
    (7, 0),
    (2, 3),
    (4, 0),
    (0, 4),
    (6, 5),
    (3, 2),
    (3, 4),
    (3, 4),
    (5, 2),
    (7, 3),
    (7, 6),
    (6, 5),
]


def minorise_maximise(pairs, items, steps=5000):
    """π_i ← wins_i / Σ_j n_ij/(π_i+π_j) (Zermelo 1929; Hunter 2004): no derivatives, nothing shared
    with the fit."""
    wins = np.zeros((items, items))
    np.add.at(wins, (pairs[:, 0], pairs[:, 1]), 1)
    worth = np.ones(items)
    for _ in range(steps):
        worth = wins.sum(1) / ((wins + wins.T) / (worth[:, None] + worth)).sum(1)
        worth /= np.exp(np.log(worth).mean())
    return np.log(worth)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_minorisation_and_with_choix(seed):
    pairs = random_games(12, 600, seed)
    strength = fit_bradley_terry(pairs).strength
    np.testing.assert_allclose(strength, minorise_maximise(pairs, 12), atol=1e-9)
    np.testing.assert_allclose(
        strength, choix.ilsr_pairwise(12, pairs.tolist(), max_iter=1000), atol=1e-6
    )


@pytest.mark.parametrize("prior_std", [0.3, 1.0, 3.0])
def test_prior_agrees_with_choix_whose_penalty_is_half_a_precision(prior_std):
    with pytest.raises(UserError, match="no finite strengths"):
        fit_bradley_terry(EIGHT)
    expected = choix.opt_pairwise(8, EIGHT, alpha=0.5 / prior_std**2, tol=1e-10)
    np.testing.assert_allclose(
        fit_bradley_terry(EIGHT, prior_std=prior_std).strength, expected, atol=1e-6
    )


def test_one_comparison_under_a_standard_normal_prior():
    # Each θ solves σ(−2θ) = θ.
    np.testing.assert_allclose(
        fit_bradley_terry([(0, 1)], prior_std=1).strength, [0.3374, -0.3374], atol=1e-4
    )


def tensors(table):
    as_long = {name: torch.as_tensor(column) for name, column in table.items()}
    order = torch.where(as_long["first"] == as_long["winner"], 1.0, -1.0).double()
    return (
        as_long["winner"],
        as_long["loser"],
        torch.where(as_long["tie"] == 1, 0.5, 1.0).double(),
        order,
    )


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("home", [False, True])
def test_module_trained_by_gradient_reaches_the_newton_fit(ties, home):
    table = random_table(7, 400)
    ranking, module = fit_bradley_terry(table, ties=ties, home=home), BradleyTerry(7, ties, home)
    optimizer = torch.optim.LBFGS(
        module.parameters(),
        max_iter=300,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss():
        optimizer.zero_grad()
        value = -module.log_likelihood(*tensors(table)).mean()
        value.backward()
        return value

    assert -400 * optimizer.step(loss).item() <= ranking.log_likelihood
    np.testing.assert_allclose(module.centred(), ranking.strength, atol=1e-6)
    assert -400 * loss().item() == pytest.approx(ranking.log_likelihood, abs=1e-8)
    if home:
        assert module.home.item() == pytest.approx(ranking.home.value, abs=1e-6)
    if ranking.tie is not None:
        assert module.tie.item() == pytest.approx(ranking.tie.value, abs=1e-6)


def descend(module, first, second, steps):
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        (-module.log_likelihood(first, second).mean()).backward()
        optimizer.step()


def test_plain_gradient_descent_reaches_it_too():
    pairs = random_games(5, 200)
    module = BradleyTerry(5)
    descend(module, *torch.from_numpy(pairs).T, steps=500)
    np.testing.assert_allclose(module.centred(), fit_bradley_terry(pairs).strength, atol=1e-6)


def test_on_separable_data_the_gaps_grow_without_bound_like_the_log_of_the_steps():
    first, second = torch.tensor([[0, 2, 1], [1, 3, 3]])
    gaps = []
    for steps in (400, 1200, 3600):
        module = BradleyTerry(4)
        descend(module, first, second, steps)
        gaps.append(module.margin(torch.tensor(0), torch.tensor(1)).item())
    # The gradient of a gap g is exp(−g), so g ≈ log(steps) + constant.
    np.testing.assert_allclose(np.diff(gaps), np.log(3), rtol=0.1)
    with pytest.raises(UserError, match="no finite strengths"):
        fit_bradley_terry([(0, 1), (2, 3), (1, 3)])


def test_both_parametrisations():
    ranking = fit_bradley_terry(random_games(6, 200))
    worth = ranking.worth
    np.testing.assert_allclose(np.log(worth) - np.log(worth).mean(), ranking.strength, atol=1e-12)
    assert ranking.probability(2, 4) == pytest.approx(worth[2] / (worth[2] + worth[4]), abs=1e-12)
    assert worth.sum() == pytest.approx(1)


@pytest.mark.parametrize("interval", ["fisher", "sandwich"])
def test_nothing_depends_on_row_order_names_or_how_counts_are_written(interval):
    pairs = random_games(6, 200)
    ranking = fit_bradley_terry(pairs, interval=interval)
    shuffled = np.random.default_rng(0).permutation(pairs)
    named = fit_bradley_terry([(f"item {w}", f"item {x}") for w, x in shuffled], interval=interval)
    distinct, count = np.unique(pairs, axis=0, return_counts=True)
    counted = fit_bradley_terry(np.column_stack([distinct, count]), interval=interval)
    for other in (named, counted):
        np.testing.assert_allclose(other.strength, ranking.strength, atol=1e-12)
        np.testing.assert_allclose(other.stderr, ranking.stderr, atol=1e-12)
        assert other.log_likelihood == pytest.approx(ranking.log_likelihood)
        assert (other.rank_interval == ranking.rank_interval).all()


def test_an_outcome_below_a_half_is_the_other_items_win():
    pairs = random_games(4, 60)
    flipped = fit_bradley_terry(pairs[:, ::-1], outcome=np.zeros(60))
    np.testing.assert_allclose(flipped.strength, fit_bradley_terry(pairs).strength, atol=1e-12)


def test_equal_items_share_a_rank():
    games = [
        ("a", "b", 3),
        ("b", "a", 3),
        ("a", "c", 4),
        ("c", "a", 2),
        ("b", "c", 4),
        ("c", "b", 2),
    ]
    ranking = fit_bradley_terry(games)
    assert ranking.rank.tolist() == [1, 1, 3]


def test_rows_left_out_are_warned_about():
    with pytest.warns(UserWarning, match="left out 1 of 61 rows; row 60: an item against itself"):
        fit_bradley_terry([*random_games(4, 60).tolist(), (1, 1)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_bradley_terry(random_games(4, 60))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ties": "coin"}, "ties: 'coin' is none of half, davidson, rao-kupper, drop"),
        ({"interval": "wald"}, "interval: 'wald' is none of fisher, sandwich, bootstrap"),
        ({"prior_std": 0.0}, "prior_std: must be a number above 0"),
        ({"level": 95}, "level: must lie between 0 and 1"),
        (
            {"interval": "bootstrap", "bootstrap_samples": 1},
            "bootstrap_samples: must be at least 2",
        ),
    ],
)
def test_wrong_settings(settings, said):
    with pytest.raises(UserError, match=said):
        fit_bradley_terry(random_games(4, 60), **settings)


def test_an_unknown_item():
    with pytest.raises(UserError, match="no item 'x'"):
        fit_bradley_terry(random_games(4, 60)).difference(0, "x")
