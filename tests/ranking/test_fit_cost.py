"""What a fit costs: solvers, steps, and calls of Python."""

import sys
import time

import numpy as np
import pytest

from diffdpo.ranking import fit as fit_module
from diffdpo.ranking import fit_bradley_terry
from diffdpo.ranking.likelihood import Likelihood
from diffdpo.ranking.ties import TIES
from tests.ranking.games import random_games, random_table


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
