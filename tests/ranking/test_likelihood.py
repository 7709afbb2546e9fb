"""The tie models against their definitions, and all derivatives against finite differences."""

import numpy as np
import pytest
import torch

from diffdpo.preference import preference_log_likelihood, preference_probability
from diffdpo.ranking.jet import Jet
from diffdpo.ranking.likelihood import Likelihood
from diffdpo.ranking.sources import read_comparisons
from diffdpo.ranking.ties import TIES
from tests.ranking.games import random_table

MARGIN = torch.linspace(-12, 12, 49, dtype=torch.float64)
TIED, WON, LOST = (torch.full_like(MARGIN, outcome) for outcome in (0.5, 1.0, 0.0))


def probabilities(ties, tie):
    tie_C = torch.full_like(MARGIN, tie)
    return [
        TIES[ties].log_likelihood(MARGIN, outcome, tie_C).exp() for outcome in (WON, TIED, LOST)
    ]


def test_ties_as_half_wins_are_the_one_likelihood():
    for outcome in (1.0, 0.7, 0.5):
        outcome_C = torch.full_like(MARGIN, outcome)
        expected = preference_log_likelihood(MARGIN, outcome)
        assert torch.equal(TIES["half"].log_likelihood(MARGIN, outcome_C, MARGIN), expected)


def test_davidson_is_proportional_to_worths_and_their_geometric_mean():
    pi_i, pi_j, nu = torch.exp(MARGIN), torch.ones_like(MARGIN), 0.8
    shares = torch.stack([pi_i, nu * torch.sqrt(pi_i * pi_j), pi_j])
    mine = torch.stack(probabilities("davidson", np.log(nu)))
    torch.testing.assert_close(mine, shares / shares.sum(0), rtol=1e-12, atol=0)


def test_rao_and_kupper_is_a_threshold():
    pi, theta = torch.exp(MARGIN), 1.7
    won, lost = pi / (pi + theta), 1 / (1 + theta * pi)
    tied = (theta**2 - 1) * pi / ((pi + theta) * (1 + theta * pi))
    mine = torch.stack(probabilities("rao-kupper", np.log(theta)))
    torch.testing.assert_close(mine, torch.stack([won, tied, lost]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("ties", [name for name, model in TIES.items() if model.symbol])
def test_outcomes_exhaust_the_probability(ties):
    torch.testing.assert_close(
        sum(probabilities(ties, 0.4)), torch.ones_like(MARGIN), rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("margin", [-17_000.0, -40.0, 0.0, 40.0, 17_000.0])
def test_finite_at_any_margin(ties, margin):
    margin_C = torch.full((3,), margin, dtype=torch.float64, requires_grad=True)
    outcome_C = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    value = TIES[ties].log_likelihood(margin_C, outcome_C, torch.full_like(margin_C, 0.3).detach())
    (slope,) = torch.autograd.grad(value.sum(), margin_C)
    assert value.isfinite().all()
    assert slope.isfinite().all()


def test_a_given_winner_is_preferred_as_in_the_core_under_davidson():
    won, _, lost = probabilities("davidson", 0.3)
    torch.testing.assert_close(won / (won + lost), preference_probability(MARGIN, 0.0))


def likelihood(ties, home, prior_std=None, **settings):
    games = read_comparisons(random_table(6, 300), use_order=home)
    return Likelihood(games.cells, 6, ties, home, prior_std, **settings)


def differences(function, x, step=1e-5):
    eye = np.eye(len(x)) * step
    return np.array([(function(x + e) - function(x - e)) / (2 * step) for e in eye])


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("home", [False, True])
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_gradient_and_hessian_match_finite_differences(ties, home, scale):
    model = likelihood(ties, home, prior_std=2.0)
    x = np.random.default_rng(1).normal(scale=scale, size=6 + len(model.extras))
    if ties == "rao-kupper":
        x[-1] = abs(x[-1]) + 0.05

    def gradient(x):
        return model.gradient(model.slopes(x), x)

    np.testing.assert_allclose(gradient(x), differences(model.value, x), rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(
        -model.information(model.slopes(x)), differences(gradient, x), rtol=1e-6, atol=1e-5
    )


@pytest.mark.parametrize("ties", TIES)
def test_sparse_matrices_equal_dense_ones(ties):
    dense, sparse = likelihood(ties, True), likelihood(ties, True, dense_limit=0)
    x = dense.start() + 0.2
    slopes = dense.slopes(x)
    np.testing.assert_allclose(
        sparse.information(slopes).toarray(), dense.information(slopes), atol=1e-10
    )
    np.testing.assert_allclose(sparse.scatter(slopes).toarray(), dense.scatter(slopes), atol=1e-10)


def test_scatter_is_the_sum_over_single_comparisons():
    table = random_table(5, 60) | {"weight": np.random.default_rng(3).uniform(0.5, 2, 60)}
    games = read_comparisons(table, use_order=True)
    model = Likelihood(games.cells, 5, "davidson", True)
    x = model.start() + np.linspace(-0.5, 0.5, 7)
    expected = np.zeros((7, 7))
    for row in range(60):
        one = read_comparisons(
            {name: column[row : row + 1] for name, column in table.items()}, use_order=True
        )
        cells = one.cells
        at = [one.items[cells.first[0]], one.items[cells.second[0]]]
        moved = type(cells)(
            at[:1] * np.ones(1, int), at[1:] * np.ones(1, int), *list(vars(cells).values())[2:]
        )
        single = Likelihood(moved, 5, "davidson", True)
        score = single.gradient(single.slopes(x), x)
        expected += np.outer(score, score)
    np.testing.assert_allclose(model.scatter(model.slopes(x)), expected, atol=1e-10)


@pytest.mark.parametrize("ties", TIES)
def test_derivatives_without_torch_are_those_of_autograd(ties):
    """Value, slopes and bends of one comparison at margins where tails are thin."""
    for outcome in (WON, TIED, LOST, *([WON - 0.3] if ties == "half" else [])):
        margin, tie = MARGIN.clone().requires_grad_(), torch.tensor(0.3, dtype=torch.float64)
        tie_C = tie.expand_as(margin).clone().requires_grad_()
        value = TIES[ties].log_likelihood(margin, outcome, tie_C)

        def slope(of, by):
            if not of.requires_grad:
                return torch.zeros_like(by)
            (result,) = torch.autograd.grad(of.sum(), by, create_graph=True, allow_unused=True)
            return torch.zeros_like(by) if result is None else result

        d, t = slope(value, margin), slope(value, tie_C)
        expected = [value, d, t, slope(d, margin), slope(d, tie_C), slope(t, tie_C)]
        jet = TIES[ties].log_likelihood(*jet_arguments(outcome.numpy(), 0.3))
        for mine, theirs in zip(jet.terms_6C, expected, strict=True):
            np.testing.assert_allclose(mine, theirs.detach(), rtol=1e-9, atol=1e-15)


def jet_arguments(outcome, tie):
    margin, parameter = Jet.variables(MARGIN.numpy(), tie)
    return margin, outcome, parameter


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("kind", ["fisher", "sandwich"])
def test_noise_has_the_information_or_the_scatter_as_covariance(ties, kind):
    table = random_table(4, 200) | {"weight": np.random.default_rng(3).uniform(0.2, 3, 200)}
    model = Likelihood(read_comparisons(table, use_order=True).cells, 4, ties, True, prior_std=0.2)
    slopes = model.slopes(model.start() + np.linspace(0.1, 0.9, 4 + len(model.extras)))
    expected = model.information(slopes) if kind == "fisher" else model.scatter(slopes)
    noise = model.noise(slopes, kind, np.random.default_rng(0), 10_000)
    scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    # The error of an estimated covariance is at most √(2/10,000) of this scale.
    np.testing.assert_allclose(noise @ noise.T / 10_000 / scale, expected / scale, atol=0.06)
