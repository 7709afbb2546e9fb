"""The fit against independent methods, its invariances, and its errors of estimation."""

import sys
import time
import warnings

import choix
import numpy as np
import pytest
import torch

from diffdpo.errors import UserError
from diffdpo.ranking import BradleyTerry, fit_bradley_terry
from diffdpo.ranking import fit as fit_module
from diffdpo.ranking.likelihood import Likelihood
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


def test_an_outcome_below_a_half_is_the_other_items_win():
    pairs = random_games(4, 60)
    flipped = fit_bradley_terry(pairs[:, ::-1], outcome=np.zeros(60))
    np.testing.assert_allclose(flipped.strength, fit_bradley_terry(pairs).strength, atol=1e-12)


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


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("interval", ["fisher", "sandwich"])
def test_many_items_go_through_the_sparse_solver_to_the_same_fit(monkeypatch, ties, interval):
    table = random_table(60, 3000)
    dense = fit_bradley_terry(table, ties=ties, home=True, interval=interval)
    monkeypatch.setattr(fit_module, "DENSE_LIMIT", 10)
    sparse = fit_bradley_terry(table, ties=ties, home=True, interval=interval)
    np.testing.assert_allclose(sparse.strength, dense.strength, atol=1e-9)
    np.testing.assert_allclose(sparse.stderr, dense.stderr, rtol=0.1)
    assert sparse.home.stderr == pytest.approx(dense.home.stderr, rel=1e-6)
    assert sparse.difference(3, 7).stderr == pytest.approx(dense.difference(3, 7).stderr, rel=1e-6)
    assert (sparse.rank_interval[:, 0] <= sparse.rank).all()
    assert (sparse.rank_interval[:, 1] >= sparse.rank).all()


def test_a_long_chain_is_no_trouble_for_either_solver(monkeypatch):
    chain = [(k, k + 1, 2) for k in range(150)] + [(k + 1, k, 1) for k in range(150)]
    expected = np.log(2) * (75 - np.arange(151))
    np.testing.assert_allclose(fit_bradley_terry(chain).strength, expected, atol=1e-8)
    monkeypatch.setattr(fit_module, "DENSE_LIMIT", 10)
    np.testing.assert_allclose(fit_bradley_terry(chain).strength, expected, atol=1e-6)


def python_calls(work):
    """How many functions, Python's own and built-in ones, are called while ``work`` runs."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_four_times_the_games_of_two_hundred_items_cost_python_no_more():
    """By then every pair has met: the games are added up by numpy, once."""
    games, more = random_games(200, 200_000), random_games(200, 800_000)
    fit_bradley_terry(games[:20_000])  # what is imported once is not counted
    calls = [python_calls(lambda table=table: fit_bradley_terry(table)) for table in (games, more)]
    assert calls[1] < 1.1 * calls[0]
    assert calls[0] < 2 * 200 * 199  # of pairs, in either direction
    # As pairs of Python objects, each is looked at a few times when it is read, and then no more.
    pairs = [tuple(pair) for pair in games.tolist()]
    assert python_calls(lambda: fit_bradley_terry(pairs)) < 7 * len(pairs) + calls[0]


def test_newton_needs_few_steps_and_each_looks_at_cells_not_at_games(monkeypatch):
    evaluated = []
    slopes = Likelihood.slopes

    def counted(self, x_P):
        evaluated.append(len(self.cells.count))
        return slopes(self, x_P)

    monkeypatch.setattr(Likelihood, "slopes", counted)
    fit_bradley_terry(random_games(200, 200_000))
    assert len(evaluated) <= 20  # two a step: one for the step, one to see that it leads uphill
    assert max(evaluated) <= 200 * 199


@pytest.mark.slow
def test_two_hundred_thousand_games_of_two_hundred_items_in_half_a_second():
    array = random_games(200, 200_000)
    for games in (array, [tuple(pair) for pair in array.tolist()]):
        took = []
        for _ in range(3):  # the best of three, and in processor time: the machine may be busy
            start = time.process_time()
            fit_bradley_terry(games)
            took.append(time.process_time() - start)
        assert min(took) < 0.5


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
