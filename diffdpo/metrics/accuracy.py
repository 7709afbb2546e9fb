"""How far a reward agrees with labels, what its differences are worth, and how far two rewards
agree.

Shapes: ``P`` pairs. A gap is the first item's score minus the second's; an outcome is P(first ≻
second), of people. Nothing is compared across prompts: rewards are trained on differences within
one alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from diffdpo.draws import Purpose, generator
from diffdpo.metrics.intervals import Estimate, clustered_share

BINS = 10  # of confidence, from 1/2 to 1
STEPS = 200  # halvings of an interval: more than the digits of a double


@dataclass(frozen=True)
class Accuracy:
    """The share of pairs that a reward orders as their labels do.

    Pairs whose label is a tie are left out, ``label_ties`` of them; pairs of equal scores,
    ``score_ties``, count as half right. A soft label is what its larger half says.
    """

    estimate: Estimate
    label_ties: int
    score_ties: int

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON."""
        own = {"label_ties": self.label_ties, "score_ties": self.score_ties}
        return {**self.estimate.as_dict(), **own}


def pair_accuracy(
    gap_P: np.ndarray, outcome_P: np.ndarray, prompts: Sequence[str], seed: int = 0
) -> Accuracy | None:
    """The accuracy with its interval, clustered by prompt; None where all labels are ties."""
    decided = np.flatnonzero(outcome_P != 0.5)
    if not len(decided):
        return None
    product = np.sign(gap_P[decided]) * np.sign(outcome_P[decided] - 0.5)
    right = (product + 1) / 2
    estimate = clustered_share(right.tolist(), [prompts[at] for at in decided.tolist()], seed)
    return Accuracy(estimate, len(gap_P) - len(decided), int((product == 0).sum()))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(−x)), finite for every x."""
    return np.exp(-np.logaddexp(0, -x))


def fitted_slope(gap_P: np.ndarray, outcome_P: np.ndarray) -> float:
    """1/τ ≥ 0 of the most likely P(first ≻ second) = σ(gap/τ) (Bradley & Terry 1952).

    0 where the gaps point the wrong way or nowhere; infinity where every one points to its label,
    which any small τ fits.
    """

    def rise(slope: float) -> float:
        # Of the log-likelihood Σ p log σ(ag) + (1−p) log σ(−ag), which is concave in a.
        return float((gap_P * (outcome_P - sigmoid(slope * gap_P))).sum())

    if rise(0) <= 0:
        return 0.0
    if np.isin(outcome_P[gap_P > 0], 1).all() and np.isin(outcome_P[gap_P < 0], 0).all():
        return math.inf
    high = 1 / float(np.abs(gap_P).max())
    while rise(high) > 0:
        high *= 2
    low = 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rise(middle) > 0 else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True)
class Bin:
    """Pairs of nearly the same confidence: their mean confidence, and the share that is right."""

    confidence: float
    right: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """What σ(gap/τ) is worth as a probability.

    ``tau`` is fitted on all pairs. ``error`` is the expected calibration error (Guo et al. 2017,
    eq. 3) and ``loss`` the mean log-loss in nats of predictions that were made for either half of
    the prompts with the τ of the other one.
    """

    tau: float
    error: float
    loss: float
    bins: list[Bin]

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON, which has no infinity."""
        return {
            "tau": self.tau if math.isfinite(self.tau) else None,
            "expected_calibration_error": self.error,
            "log_loss": self.loss,
            "bins": [[one.confidence, one.right, one.count] for one in self.bins],
        }


def calibration(
    gap_P: np.ndarray, outcome_P: np.ndarray, prompts: Sequence[str], seed: int = 0
) -> Calibration | None:
    """The calibration of a reward; None where there is one prompt, or nothing to fit: all labels
    are as the gaps say, or as they do not say."""
    upper_P = upper_half(prompts, seed)
    if upper_P.all() or not upper_P.any():
        return None
    slope, slopes_P = fitted_slope(gap_P, outcome_P), np.empty(len(gap_P))
    for part_P in (upper_P, ~upper_P):
        slopes_P[part_P] = fitted_slope(gap_P[~part_P], outcome_P[~part_P])
    if not (0 < slope < math.inf) or not np.isfinite(slopes_P).all():
        return None
    logit_P = slopes_P * gap_P
    loss_P = outcome_P * np.logaddexp(0, -logit_P) + (1 - outcome_P) * np.logaddexp(0, logit_P)
    # Which of the two is the first says nothing, so a pair is looked at from the side that the
    # reward prefers.
    right_P = np.where(gap_P > 0, outcome_P, np.where(gap_P < 0, 1 - outcome_P, 0.5))
    bins = binned(sigmoid(np.abs(logit_P)), right_P)
    error = sum(one.count * abs(one.right - one.confidence) for one in bins) / len(gap_P)
    return Calibration(1 / slope, error, float(loss_P.mean()), bins)


def upper_half(prompts: Sequence[str], seed: int) -> np.ndarray:
    """A half of the prompts by chance, as a mask ``(P,)``: all pairs of a prompt are in one."""
    distinct = list(dict.fromkeys(prompts))
    order = generator(seed, Purpose.BOOTSTRAP, 1).permutation(len(distinct))
    upper = {distinct[at] for at in order[: len(distinct) // 2]}
    return np.array([prompt in upper for prompt in prompts])


def binned(confidence_P: np.ndarray, right_P: np.ndarray) -> list[Bin]:
    """The pairs in ``BINS`` of equal width; those without a pair are left out."""
    place_P = np.minimum((2 * BINS * (confidence_P - 0.5)).astype(int), BINS - 1)
    return [
        Bin(
            float(confidence_P[place_P == at].mean()),
            float(right_P[place_P == at].mean()),
            int((place_P == at).sum()),
        )
        for at in np.unique(place_P)
    ]


@dataclass(frozen=True)
class Agreement:
    """How far two rewards order the same pairs alike.

    ``same`` is the share with one sign among pairs that both decide, ``ties`` the number of the
    others. ``kendall`` is Kendall's τ_b over the pairs: what agrees less what does not, over the
    geometric mean of the pairs that each one decides (Kendall 1945).
    """

    same: Estimate | None
    kendall: float | None
    ties: int

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON."""
        same = self.same and self.same.as_dict()
        return {"same_sign": same, "kendall_tau": self.kendall, "ties": self.ties}


def agreement(
    gap_P: np.ndarray, other_P: np.ndarray, prompts: Sequence[str], seed: int = 0
) -> Agreement:
    """The agreement of two rewards by the gaps that they give to the same pairs."""
    product_P = np.sign(gap_P) * np.sign(other_P)
    both = np.flatnonzero(product_P)
    scale = math.sqrt(np.count_nonzero(gap_P) * np.count_nonzero(other_P))
    if not len(both):
        return Agreement(None, 0.0 if scale else None, len(gap_P))
    same = clustered_share(
        ((product_P[both] + 1) / 2).tolist(), [prompts[at] for at in both.tolist()], seed
    )
    return Agreement(same, float(product_P.sum() / scale), len(gap_P) - len(both))


def pairs_within(prompts: Sequence[str]) -> np.ndarray:
    """Each two items of one prompt, as numbers ``(P, 2)``; those without one may be of any."""
    members: dict[str, list[int]] = {}
    for at, prompt in enumerate(prompts):
        if prompt:
            members.setdefault(prompt, []).append(at)
    found = [two for those in members.values() for two in combinations(those, 2)]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


Table = dict[str, np.ndarray]  # gaps by reward


def agreements(
    gaps: Table, prompts: Sequence[str], seed: int = 0
) -> dict[tuple[str, str], Agreement]:
    """The agreement of each two rewards."""
    return {(a, b): agreement(gaps[a], gaps[b], prompts, seed) for a, b in combinations(gaps, 2)}
