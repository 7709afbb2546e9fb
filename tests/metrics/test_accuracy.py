"""Accuracy, calibration and agreement against closed forms and independent computations."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import kendalltau

from diffdpo.metrics.accuracy import (
    agreement,
    agreements,
    binned,
    calibration,
    fitted_slope,
    pair_accuracy,
    pairs_within,
    sigmoid,
    upper_half,
)

A = np.array


def test_ties_of_labels_are_left_out_and_ties_of_scores_are_half():
    gap, outcome = A([1.0, -2, 3, 0, 0.5, -1]), A([1.0, 0, 0, 1, 0.5, 0.2])
    found = pair_accuracy(gap, outcome, list("aabbcc"))
    # Right, right, wrong, tie, (label tie), right.
    assert found.estimate.value == pytest.approx((1 + 1 + 0 + 0.5 + 1) / 5)
    assert (found.label_ties, found.score_ties) == (1, 1)
    assert (found.estimate.n, found.estimate.clusters) == (5, 3)
    swapped = pair_accuracy(-gap, 1 - outcome, list("aabbcc"))
    assert swapped == found
    assert pair_accuracy(gap, np.full(6, 0.5), list("aabbcc")) is None


def test_pairs_of_one_prompt_are_one_cluster():
    rng = np.random.default_rng(0)
    gap = np.repeat(rng.normal(size=40), 25)
    outcome = np.repeat((rng.random(40) < 0.7).astype(float), 25)
    low, high = pair_accuracy(gap, outcome, np.repeat(np.arange(40), 25).tolist()).estimate.interval
    narrow = pair_accuracy(gap, outcome, list(range(1000))).estimate.interval
    assert high - low > 3 * (narrow[1] - narrow[0])


def test_the_slope_of_two_pairs_has_a_closed_form():
    # All gaps 2, of which three of four are right: σ(2a) = 3/4.
    slope = fitted_slope(np.full(4, 2.0), A([1.0, 1, 1, 0]))
    assert slope == pytest.approx(math.log(3) / 2, rel=1e-12)
    soft = fitted_slope(A([2.0]), A([0.75]))
    assert soft == pytest.approx(math.log(3) / 2, rel=1e-12)
    assert fitted_slope(A([1.0, -1]), A([1.0, 0])) == math.inf
    assert fitted_slope(A([1.0, -1]), A([0.0, 1])) == 0
    assert fitted_slope(A([0.0, 0]), A([0.0, 1])) == 0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_slope_is_the_most_likely_one(scale):
    rng = np.random.default_rng(3)
    gap = scale * rng.normal(size=500)
    outcome = (rng.random(500) < sigmoid(gap / scale * 1.7)).astype(float)

    def nll(a):
        logit = a * gap / scale
        return (outcome * np.logaddexp(0, -logit) + (1 - outcome) * np.logaddexp(0, logit)).sum()

    best = minimize_scalar(nll, bounds=(0, 10), method="bounded", options={"xatol": 1e-9}).x
    assert fitted_slope(gap, outcome) * scale == pytest.approx(best, rel=1e-5)


def test_what_is_drawn_from_the_model_is_calibrated_and_what_is_not_is_not():
    rng = np.random.default_rng(1)
    gap = rng.normal(scale=3, size=20_000)
    prompts = [str(n // 2) for n in range(len(gap))]
    drawn = (rng.random(len(gap)) < sigmoid(gap / 2)).astype(float)
    found = calibration(gap, drawn, prompts)
    assert found.tau == pytest.approx(2, rel=0.05)
    assert found.error < 0.012
    # Entropy of the model, by the mean over its own probabilities.
    p = sigmoid(gap / 2)
    assert found.loss == pytest.approx(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean(), abs=0.01)
    # A judge whose sign alone counts is right as often at small gaps as at large ones.
    sign = np.where(rng.random(len(gap)) < 0.7, gap > 0, gap < 0).astype(float)
    assert calibration(gap, sign, prompts).error > 0.04


def test_the_calibration_error_is_that_of_its_definition():
    confidence, right = A([0.51, 0.54, 0.62, 0.99, 1.0]), A([1.0, 0, 0.5, 1, 1])
    bins = binned(confidence, right)
    assert [(round(b.confidence, 4), b.right, b.count) for b in bins] == [
        (0.525, 0.5, 2),
        (0.62, 0.5, 1),
        (0.995, 1.0, 2),
    ]
    assert sum(b.count for b in bins) == 5


def test_every_prediction_is_made_with_the_other_half_s_tau():
    prompts = [str(n) for n in range(40)]
    upper = upper_half(prompts, 0)
    assert upper.sum() == 20
    assert not np.array_equal(upper, upper_half(prompts, 1))
    gap = np.where(upper, 1.0, 2.0)
    outcome = np.tile([1.0, 1, 1, 0], 10)
    rates = [outcome[part].mean() for part in (upper, ~upper)]
    found = calibration(gap, outcome, prompts)
    # The upper half is predicted by σ of log-odds of the lower half over 2, and the other way.
    logit = [math.log(rate / (1 - rate)) for rate in rates]
    by_hand = A([1 / (1 + math.exp(-logit[1] / 2)), 1 / (1 + math.exp(-logit[0] * 2))])
    p = np.where(upper, by_hand[0], by_hand[1])
    expected = -(outcome * np.log(p) + (1 - outcome) * np.log(1 - p)).mean()
    assert found.loss == pytest.approx(expected, rel=1e-9)


def test_halves_are_of_prompts_and_one_prompt_has_none():
    prompts = [str(n // 5) for n in range(50)]
    upper = upper_half(prompts, 0)
    assert {prompt for prompt, part in zip(prompts, upper, strict=True) if part}.isdisjoint(
        prompt for prompt, part in zip(prompts, upper, strict=True) if not part
    )
    assert calibration(A([1.0, 2]), A([1.0, 0]), ["a", "a"]) is None
    assert calibration(A([1.0, 2, 3, 4]), A([1.0, 1, 1, 1]), list("abcd")) is None


def test_agreement_within_one_prompt_is_kendalls_tau():
    rng = np.random.default_rng(5)
    first, second = rng.integers(0, 6, 30), rng.integers(0, 6, 30)
    both = pairs_within(["p"] * 30)
    assert len(both) == 30 * 29 // 2
    gaps = [scores[both[:, 0]] - scores[both[:, 1]] for scores in (first, second)]
    found = agreement(*gaps, ["p"] * len(both))
    assert found.kendall == pytest.approx(kendalltau(first, second).statistic, abs=1e-12)
    decided = (gaps[0] != 0) & (gaps[1] != 0)
    assert found.ties == (~decided).sum()
    same = (np.sign(gaps[0]) == np.sign(gaps[1]))[decided].mean()
    assert found.same.value == pytest.approx(same)


def test_pairs_are_within_prompts_alone():
    assert pairs_within(list("abab")).tolist() == [[0, 2], [1, 3]]
    assert pairs_within(list("abc")).shape == (0, 2)
    assert pairs_within(["", "a", "", "a"]).tolist() == [[1, 3]]  # without a caption: of any prompt
    nobody = agreement(A([0.0, 1]), A([1.0, 0]), ["a", "b"])
    assert (nobody.same, nobody.kendall, nobody.ties) == (None, 0.0, 2)
    gaps = {"a": A([1.0, 2]), "b": A([1.0, -2]), "c": A([-1.0, -2])}
    found = agreements(gaps, ["p", "q"])
    assert {names: one.kendall for names, one in found.items()} == {
        ("a", "b"): 0,
        ("a", "c"): -1,
        ("b", "c"): 0,
    }
