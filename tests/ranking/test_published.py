"""Published fits, to the digits that were printed, and our own maxima to more of them."""

import math

import numpy as np
import pytest

from diffdpo.ranking import fit_bradley_terry

# Agresti (2002), p. 437: American League East 1987. home: away home_wins away_wins, …
BASEBALL = """
Milwaukee: Detroit 4 3, Toronto 4 2, New York 4 3, Boston 6 1, Cleveland 4 2, Baltimore 6 0
Detroit: Milwaukee 3 3, Toronto 4 2, New York 4 3, Boston 6 0, Cleveland 6 1, Baltimore 4 3
Toronto: Milwaukee 2 5, Detroit 4 3, New York 2 4, Boston 4 3, Cleveland 4 2, Baltimore 6 0
New York: Milwaukee 3 3, Detroit 5 1, Toronto 2 5, Boston 4 3, Cleveland 4 2, Baltimore 6 1
Boston: Milwaukee 5 1, Detroit 2 5, Toronto 3 3, New York 4 2, Cleveland 5 2, Baltimore 6 0
Cleveland: Milwaukee 2 5, Detroit 3 3, Toronto 3 4, New York 4 3, Boston 4 2, Baltimore 2 4
Baltimore: Milwaukee 2 5, Detroit 1 5, Toronto 1 6, New York 2 4, Boston 1 6, Cleveland 3 4
"""
TEAMS = ["Baltimore", "Boston", "Cleveland", "Detroit", "Milwaukee", "New York", "Toronto"]
# Stigler (1994): cited, citing, how often.
CITATIONS = [
    ("Biometrika", "CommStat", 730),
    ("Biometrika", "JASA", 498),
    ("Biometrika", "JRSS-B", 221),
    ("CommStat", "Biometrika", 33),
    ("CommStat", "JASA", 68),
    ("CommStat", "JRSS-B", 17),
    ("JASA", "Biometrika", 320),
    ("JASA", "CommStat", 813),
    ("JASA", "JRSS-B", 142),
    ("JRSS-B", "Biometrika", 284),
    ("JRSS-B", "CommStat", 276),
    ("JRSS-B", "JASA", 325),
]
# Davidson (1970): i, j, wins of i, wins of j, ties.
PUDDINGS = [
    (1, 2, 19, 22, 16),
    (1, 3, 16, 19, 12),
    (2, 3, 19, 19, 10),
    (1, 4, 18, 23, 13),
    (2, 4, 23, 19, 9),
    (3, 4, 19, 20, 15),
    (1, 5, 13, 19, 18),
    (2, 5, 16, 20, 12),
    (3, 5, 16, 15, 17),
    (4, 5, 17, 14, 16),
    (1, 6, 18, 21, 12),
    (2, 6, 22, 20, 12),
    (3, 6, 13, 18, 10),
    (4, 6, 14, 19, 18),
    (5, 6, 11, 21, 12),
]


def baseball():
    rows = []
    for line in BASEBALL.strip().splitlines():
        home, games = line.split(":")
        for game in games.split(","):
            away, won, lost = game.strip().rsplit(" ", 2)
            rows += [(home, away, int(won), home), (away, home, int(lost), home)]
    return dict(zip(("winner", "loser", "count", "first"), zip(*rows, strict=True), strict=True))


def puddings():
    rows = [row for i, j, a, b, t in PUDDINGS for row in ((i, j, a, 0), (j, i, b, 0), (i, j, t, 1))]
    return dict(zip(("winner", "loser", "count", "tie"), zip(*rows, strict=True), strict=True))


def deviance(counts, log_likelihood):
    """Twice the log-likelihood ratio to the model that gives every pair its own win rate."""
    each = [c * math.log(c / sum(pair)) for pair in counts for c in pair if c]
    return 2 * (sum(each) - log_likelihood)


def pairs_of_baseball():
    count = baseball()["count"]
    return list(zip(count[::2], count[1::2], strict=True))


def against(ranking, reference):
    others = [item for item in ranking.items if item != reference]
    estimates = [ranking.difference(item, reference) for item in others]
    return np.array([e.value for e in estimates]), np.array([e.stderr for e in estimates])


def test_baseball_without_home_effect():
    ranking = fit_bradley_terry(baseball())
    strength, stderr = against(ranking, "Baltimore")
    assert sorted(strength.round(2)) == [
        0.68,
        1.11,
        1.25,
        1.29,
        1.44,
        1.58,
    ]  # Agresti's table 10.11
    np.testing.assert_allclose(
        strength, [1.10770, 0.68385, 1.43641, 1.58136, 1.24762, 1.29449], atol=5e-6
    )
    np.testing.assert_allclose(
        stderr, [0.33388, 0.33188, 0.33957, 0.34326, 0.33586, 0.33667], atol=5e-6
    )
    assert ranking.log_likelihood == pytest.approx(-172.24818, abs=5e-6)
    assert deviance(pairs_of_baseball(), ranking.log_likelihood) == pytest.approx(44.0535, abs=5e-5)
    assert ranking.items == TEAMS
    assert ranking.games.sum() == 2 * 273


def test_baseball_centred_with_both_standard_errors():
    fisher, sandwich = (
        fit_bradley_terry(baseball(), interval=kind) for kind in ("fisher", "sandwich")
    )
    expected = [-1.05020, 0.05750, -0.36635, 0.38621, 0.53115, 0.19742, 0.24428]
    np.testing.assert_allclose(fisher.strength, expected, atol=5e-6)
    expected = [0.23246, 0.20092, 0.20504, 0.20416, 0.20742, 0.20160, 0.20206]
    np.testing.assert_allclose(fisher.stderr, expected, atol=5e-6)
    expected = [0.22845, 0.19376, 0.21402, 0.20766, 0.20765, 0.20577, 0.19507]
    np.testing.assert_allclose(sandwich.stderr, expected, atol=6e-6)


def test_baseball_with_home_effect():
    ranking = fit_bradley_terry(baseball(), home=True)
    assert sorted(ranking.worth.round(3)) == [0.044, 0.088, 0.137, 0.157, 0.164, 0.190, 0.220]
    assert round(ranking.home.value, 3) == 0.302
    assert round(math.exp(ranking.home.value), 2) == 1.35
    strength, _ = against(ranking, "Baltimore")
    np.testing.assert_allclose(
        strength, [1.14380, 0.70469, 1.47536, 1.61955, 1.28134, 1.32711], atol=5e-6
    )
    assert ranking.home.value == pytest.approx(0.30226, abs=5e-6)
    assert ranking.home.stderr == pytest.approx(0.13094, abs=5e-6)
    assert deviance(pairs_of_baseball(), ranking.log_likelihood) == pytest.approx(38.6429, abs=5e-5)


def test_statistics_journals():
    ranking = fit_bradley_terry(CITATIONS)
    strength, stderr = against(ranking, "Biometrika")
    assert strength.round(4).tolist() == [-2.9491, -0.4796, 0.2690]  # Turner & Firth 2012
    np.testing.assert_allclose(strength, [-2.949072, -0.479570, 0.268954], atol=5e-7)
    np.testing.assert_allclose(stderr, [0.102545, 0.060589, 0.070830], atol=5e-7)
    counted = {(cited, citing): count for cited, citing, count in CITATIONS}
    pairs = [(count, counted[b, a]) for (a, b), count in counted.items() if a < b]
    assert deviance(pairs, ranking.log_likelihood) == pytest.approx(4.29338, abs=5e-6)


def test_puddings_with_ties_by_davidson():
    ranking = fit_bradley_terry(puddings(), ties="davidson")
    # Davidson stopped early; his printed digits lie within 2e-5 of the maximum.
    printed = [0.1388005, 0.1729985, 0.1617420, 0.1653930, 0.1586805, 0.2023855]
    np.testing.assert_allclose(ranking.worth, printed, atol=3e-5)
    assert ranking.tie_parameter == pytest.approx(0.7468147, abs=1e-5)
    maximum = [0.138803, 0.173002, 0.161747, 0.165373, 0.158685, 0.202389]
    np.testing.assert_allclose(ranking.worth, maximum, atol=5.5e-7)
    assert ranking.tie_parameter == pytest.approx(0.746823, abs=5e-7)
    assert round(ranking.tie.value, 4) == -0.2919
    assert round(ranking.tie.stderr, 4) == 0.0825
    assert ranking.log_likelihood == pytest.approx(-809.70951, abs=5e-6)
    assert -2 * ranking.log_likelihood == pytest.approx(1619.4, abs=0.05)
    _, stderr = against(ranking, 1)
    assert stderr.round(4).tolist() == [0.1872, 0.1935, 0.1882, 0.1927, 0.1924]


def test_puddings_with_ties_by_rao_and_kupper_and_as_half_wins():
    ranking = fit_bradley_terry(puddings(), ties="rao-kupper")
    expected = [0.144399, 0.171794, 0.162817, 0.166078, 0.160381, 0.194531]
    np.testing.assert_allclose(ranking.worth, expected, atol=5.5e-7)
    assert ranking.tie_parameter == pytest.approx(1.748457, abs=5e-7)
    assert ranking.log_likelihood == pytest.approx(-809.69713, abs=5e-6)
    expected = [0.146075, 0.171473, 0.163279, 0.165935, 0.161023, 0.192214]
    np.testing.assert_allclose(fit_bradley_terry(puddings()).worth, expected, atol=5.5e-7)


def test_four_players_of_the_encyclopedia():
    games = [
        ("A", "B", 2),
        ("B", "A", 3),
        ("A", "D", 1),
        ("D", "A", 4),
        ("B", "C", 5),
        ("C", "B", 3),
        ("C", "D", 1),
        ("D", "C", 3),
    ]
    worth = np.exp(fit_bradley_terry(games).strength)
    assert worth.round(3).tolist() == [0.640, 1.043, 0.660, 2.270]
    np.testing.assert_allclose(worth, [0.639835, 1.043314, 0.659810, 2.270377], atol=5e-7)


def test_three_items_of_choix():
    strength = fit_bradley_terry([(0, 1), (0, 1), (1, 2), (2, 0)]).strength
    np.testing.assert_allclose(strength, [0.419617624, -0.419617624, 0], atol=1e-9)
