"""What is said of votes, against counts made by hand and public worked examples."""

import math

import numpy as np
import pytest

from diffdpo.annotate.agreement import agreement, alpha_of, comparisons, strength_gain, win_rates
from diffdpo.ranking import fit_bradley_terry
from tests.annotate.made import vote


def test_alpha_is_that_of_krippendorff_s_own_example():
    # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: nominal, 0.743.
    raters = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    counts = np.array(
        [[sum(r[unit] == value for r in raters) for value in range(1, 6)] for unit in range(12)]
    )
    found = alpha_of(counts)
    assert found.value == pytest.approx(0.743, abs=5e-4)
    assert found.interval is not None
    assert found.interval[0] < 0.743 < found.interval[1]


def test_alpha_is_one_without_and_about_zero_with_coin_tosses():
    random = np.random.default_rng(0)
    agreed = np.zeros((60, 2), dtype=int)
    agreed[np.arange(60), random.integers(0, 2, 60)] = 2
    assert alpha_of(agreed).value == pytest.approx(1.0)
    tossed = np.array([np.bincount(random.integers(0, 2, 2), minlength=2) for _ in range(2000)])
    found = alpha_of(tossed)
    assert found.interval is not None
    assert found.interval[0] < 0 < found.interval[1]
    alike = alpha_of(np.array([[2, 0], [2, 0]]))
    assert alike.value is None
    assert str(alike) == "undefined: all votes are alike"
    assert str(alpha_of(np.zeros((0, 4)))) == "undefined: no pair has two"


def test_the_figures_of_people_are_counts_of_their_lines():
    votes = [
        vote(0, "first", "ann", left="first", ms=100),
        vote(1, "first", "ann", left="second", ms=1000),
        vote(2, "tie", "ann", ms=3000),
        vote(3, "skip", "ann"),
        vote(0, "first", "ann", kind="repeat", left="second"),
        vote(1, "second", "ann", kind="repeat", left="first"),
        vote(0, "second", "bob", left="second"),
        vote(2, "tie", "bob"),
        vote(0, "first", "cy", left="second"),
    ]
    found = agreement(votes)
    assert (found.votes, found.pairs, found.shared) == (6, 3, 2)
    assert found.share is not None
    assert found.share.value == pytest.approx((1 / 3 + 1) / 2)  # pair 0: 1 of 3; pair 2: all
    ann, bob, cy = found.people
    assert (ann.name, ann.n, ann.skipped, ann.fast, ann.median_ms) == ("ann", 5, 1, 1, 900)
    assert ann.left is not None
    assert ann.repeats is not None
    assert ann.left.value == pytest.approx(1 / 4)  # of four decisions one took the left
    assert (ann.repeats.value, ann.repeats.n) == (0.5, 2)
    # On pair 0 one of the two others chose as she did, on pair 2 the only other.
    assert ann.others == pytest.approx((0.5 + 1) / 2)
    assert bob.repeats is None
    assert cy.others == pytest.approx(0.5)
    assert math.isnan(agreement([vote(0, "skip")]).people[0].median_ms)


def test_comparisons_put_the_left_item_first_so_that_home_is_the_left_side():
    votes = [
        vote(0, "first", left="first"),
        vote(1, "first", left="second"),
        vote(2, "tie", left="second"),
        vote(3, "both_bad", left="first"),
        vote(4, "second", left="first"),
        vote(5, "second", left="first"),
        vote(6, "skip"),
        vote(7, "first", kind="repeat"),
        vote(8, "first", second="x"),  # one model against itself
    ]
    assert comparisons(votes) == [
        {"first": "x", "second": "y", "outcome": 0.0, "count": 2},
        {"first": "x", "second": "y", "outcome": 0.5, "count": 1},
        {"first": "x", "second": "y", "outcome": 1.0, "count": 1},
        {"first": "y", "second": "x", "outcome": 0.0, "count": 1},
        {"first": "y", "second": "x", "outcome": 0.5, "count": 1},
    ]
    fit = fit_bradley_terry(comparisons(votes))
    assert fit.probability("x", "y") == pytest.approx((2 + 1) / 6)
    always_left = [vote(n, ("first", "second")[n % 4 > 1], left=("first", "second")[n % 2])
                   for n in range(40)]  # fmt: skip
    always_left += [vote(n, one, left=one) for n, one in enumerate(["first", "second"] * 20)]
    home = fit_bradley_terry(comparisons(always_left), home=True).home
    assert home is not None
    # Half of the votes are coins and half take the left: the left wins 3 of 4, log 3.
    assert home.value == pytest.approx(math.log(3), abs=1e-6)


def test_win_rates_count_ties_as_half_for_every_two_runs():
    votes = [vote(n, c, first="a", second="b") for n, c in enumerate(["first", "second", "tie"])]
    votes += [vote(3, "both_bad", first="a", second="b"), vote(4, "skip", first="a", second="b")]
    votes += [vote(5, "second", first="a", second="c")]
    rates = win_rates(votes)
    assert {k: (v.value, v.n) for k, v in rates.items()} == {
        ("a", "b"): (pytest.approx((1 + 0.5 + 0.5) / 4), 4),
        ("a", "c"): (0.0, 1),
    }


def test_the_gain_is_largest_between_equals_that_were_compared_least():
    votes = [vote(n, "first", first="a", second="b") for n in range(12)]
    votes += [vote(n, ("first", "second")[n % 2], first="b", second="c") for n in range(4)]
    gains = strength_gain(votes, ["a", "b", "c", "new"])
    fit = fit_bradley_terry(comparisons(votes), prior_std=2.0)
    p, spread = fit.probability("b", "c"), fit.difference("b", "c").stderr
    assert gains[frozenset("bc")] == pytest.approx(math.log(1 + p * (1 - p) * spread**2))
    assert gains[frozenset(("a", "new"))] == pytest.approx(math.log(1 + 0.25 * 8))
    assert gains[frozenset("ab")] < gains[frozenset("bc")] < gains[frozenset(("a", "new"))]
