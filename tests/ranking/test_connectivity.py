"""Where no finite maximum exists it is said, and why; never a large number."""

import re

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from diffdpo.errors import UserError
from diffdpo.ranking import fit_bradley_terry
from diffdpo.ranking.cells import groups_of
from diffdpo.ranking.sources import read_comparisons


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_the_strongly_connected_components(seed):
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 30, (rng.integers(20, 70), 2))
    games = read_comparisons(pairs[pairs[:, 0] != pairs[:, 1]])
    n, cells = len(games.items), games.cells
    groups = groups_of(cells, n)
    graph = coo_matrix((np.ones(len(cells.first)), (cells.first, cells.second)), shape=(n, n))
    count, label = connected_components(graph, connection="strong")
    assert sorted(map(tuple, groups)) == sorted(
        tuple(np.flatnonzero(label == k)) for k in range(count)
    )
    position_of = np.empty(n, dtype=int)
    for position, group in enumerate(groups):
        position_of[group] = position
    assert (position_of[cells.first] <= position_of[cells.second]).all()  # unbeaten groups first


def test_a_long_chain_needs_no_recursion():
    games = read_comparisons([(k, k + 1) for k in range(20_000)])
    assert len(groups_of(games.cells, 20_001)) == 20_001


@pytest.mark.parametrize(("games", "groups"), [
    ([(0, 1), (2, 3), (1, 3)], ["[0]", "[1]", "[2]", "[3]"]),
    ([("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")], ["[a, b]", "[c, d]"]),
    ([("a", "b"), ("b", "a"), ("a", "c"), ("c", "d"), ("d", "c")], ["[a, b]", "[c, d]"]),
    ([*((f"m{k}", f"m{(k + 1) % 9}") for k in range(9)), ("m0", "last")],
     ["[m0, m1, m2, m3, m4, m5, … 9 items]", "[last]"]),
])  # fmt: skip
def test_groups_are_named_and_a_prior_gives_finite_strengths(games, groups):
    with pytest.raises(UserError, match="no finite strengths exist") as error:
        fit_bradley_terry(games)
    assert sorted(re.findall(r"\[.*?\]", str(error.value))) == sorted(groups)
    ranking = fit_bradley_terry(games, prior_std=2.0)
    assert not ranking.connected
    assert len(ranking.groups) == len(groups)
    assert np.isfinite(ranking.strength).all()
    assert np.abs(ranking.strength).max() < 5
    assert abs(ranking.strength.mean()) < 1e-12


def test_a_tie_links_both_ways_unless_it_is_dropped():
    table = {"winner": ["a", "b", "c"], "loser": ["b", "c", "a"], "tie": [0, 0, 1]}
    assert fit_bradley_terry(table).connected
    with pytest.raises(UserError, match="no finite strengths"):
        fit_bradley_terry(table, ties="drop")


def test_an_item_that_only_tied_is_named_when_ties_are_dropped():
    table = {"winner": ["a", "b", "a"], "loser": ["b", "a", "c"], "tie": [0, 0, 1]}
    with pytest.warns(UserWarning, match="only ties, so not ranked: c"):
        assert fit_bradley_terry(table, ties="drop").items == ["a", "b"]


def shown(outcome, first="abab", second="baba"):
    return {"first": list(first), "second": list(second), "outcome": outcome}


@pytest.mark.parametrize("table", [
    shown([1, 1, 1, 1]),  # the first always wins
    shown([0, 0, 0, 0]),
    shown([1, 0, 1, 1], "aaaa", "bbbb"),  # a was never shown second
    # Strengths do not explain it, yet each pair's winner is the first shown: a, b, c beat each
    # other in turn.
    shown([1, 1, 1], "abc", "bca"),
])  # fmt: skip
@pytest.mark.parametrize("prior_std", [None, 1.0])
def test_a_home_effect_without_a_finite_estimate(table, prior_std):
    if prior_std and table["outcome"] == [1, 0, 1, 1]:
        assert np.isfinite(
            fit_bradley_terry(table, home=True, prior_std=prior_std).home.value
        )  # the prior tells them apart
        return
    with pytest.raises(UserError, match="the home effect has no finite estimate"):
        fit_bradley_terry(table, home=True, prior_std=prior_std)


@pytest.mark.parametrize("ties", ["davidson", "rao-kupper"])
def test_a_tie_parameter_without_a_finite_estimate(ties):
    columns = {"winner": ["a", "a", "b", "c"], "loser": ["b", "b", "c", "a"]}
    for tie, said in (([0] * 4, "no tie among"), ([1] * 4, "only ties among")):
        with pytest.raises(UserError, match=said):
            fit_bradley_terry({**columns, "tie": tie}, ties=ties)
    # a wins once and ties once, b never wins: a gap and a tie parameter that grow together explain
    # both ever better.
    with pytest.raises(UserError, match="no finite"):
        fit_bradley_terry({"winner": ["a", "a"], "loser": ["b", "b"], "tie": [0, 1]}, ties=ties)


def test_resamples_without_a_maximum_are_counted_and_too_many_are_an_error():
    thin = [("a", "b", 1), ("b", "a", 9)]
    with pytest.raises(UserError, match=r"bootstrap: \d+ of 200 resamples have no finite maximum"):
        fit_bradley_terry(thin, interval="bootstrap", bootstrap_samples=200)
    few = [("a", "b", 4), ("b", "a", 12)]
    ranking = fit_bradley_terry(few, interval="bootstrap", bootstrap_samples=200)
    assert 0 < ranking.method["without_maximum"] <= 10
    assert np.isfinite(ranking.stderr).all()
