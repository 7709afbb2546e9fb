"""The variance of one pair's gradient, split into timestep, pair and noise, and what remedies leave
of it.

A nested analysis of variance with strata of the timestep that are all seen: the gradient of pair p
in stratum t at noise m is μ + a_t + b_p + c_pt + e_ptm. Pairs and noises are drawn, strata are not.
Shapes: ``P`` pairs, ``T`` strata, ``M`` noises, ``K`` numbers of a gradient or of its sketch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NOISIEST = 0.3  # share of the strata that the last remedy keeps


@dataclass(frozen=True)
class Pulls:
    """What was measured: gradients of the logits, and the logits.

    ``pull_PTMK`` is ∇ of a pair's logit β·margin, ``logit_PTM`` the logit itself;
    ``opposite_PTK`` and ``opposite_PT`` are the same under the first noise with its sign changed.
    The gradient of −log σ(logit) is −σ(−logit) ∇ logit.
    """

    pull_PTMK: np.ndarray
    logit_PTM: np.ndarray
    opposite_PTK: np.ndarray
    opposite_PT: np.ndarray

    def without(self, pair: int) -> Pulls:
        """All pairs but one."""
        parts = (self.pull_PTMK, self.logit_PTM, self.opposite_PTK, self.opposite_PT)
        return Pulls(*(np.delete(part, pair, axis=0) for part in parts))

    @property
    def gradient_PTMK(self) -> np.ndarray:
        """The gradient of the loss of one pair at one draw, up to its sign."""
        return slope(self.logit_PTM)[..., None] * self.pull_PTMK

    @property
    def opposite_gradient_PTK(self) -> np.ndarray:
        """The same under the opposite noise."""
        return slope(self.opposite_PT)[..., None] * self.opposite_PTK


@dataclass(frozen=True)
class Parts:
    """The parts of E|g − E g|², and |E g|². All are estimated without bias, and may come out
    below 0."""

    timestep: float
    pair: float
    both: float  # pairs that differ by stratum
    noise: float  # of a pair in a stratum: noise, place in the stratum, sample of the posterior
    signal: float

    @property
    def total(self) -> float:
        """The variance of a pair's gradient at one draw."""
        return self.timestep + self.pair + self.both + self.noise


def slope(logit: np.ndarray) -> np.ndarray:
    """σ(−logit), by which the gradient of a pair's loss is shorter than that of its logit."""
    return np.exp(-np.logaddexp(0, logit))


def square(x: np.ndarray) -> np.ndarray:
    """|x|² along the last axis."""
    return np.einsum("...k,...k->...", x, x)


def signal(mean_PK: np.ndarray) -> float:
    """|E g|² without bias: the mean of the products of two different pairs."""
    pairs = len(mean_PK)
    return float((square(mean_PK.sum(axis=0)) - square(mean_PK).sum()) / (pairs * (pairs - 1)))


def parts(gradient_PTMK: np.ndarray) -> Parts:
    """The parts of the variance, by the expectations of the sums of squares."""
    pairs, strata, noises, _ = gradient_PTMK.shape
    cell_PTK = gradient_PTMK.mean(axis=2)
    pair_PK, stratum_TK = cell_PTK.mean(axis=1), cell_PTK.mean(axis=0)
    mean_K = pair_PK.mean(axis=0)
    within = square(gradient_PTMK - cell_PTK[:, :, None]).sum() / (pairs * strata * (noises - 1))
    rest_PTK = cell_PTK - pair_PK[:, None] - stratum_TK + mean_K
    left = (strata - 1) / strata * within / noises  # of the noise, in a mean over the cell
    both = square(rest_PTK).sum() / (strata * (pairs - 1)) - left
    pair = square(pair_PK - mean_K).sum() / (pairs - 1) - within / (strata * noises)
    timestep = square(stratum_TK - mean_K).mean() - (both + left) / pairs
    return Parts(float(timestep), float(pair), float(both), float(within), signal(pair_PK))


def by_stratum(gradient_PTMK: np.ndarray) -> dict[str, np.ndarray]:
    """Of every stratum ``(T,)``: E|g|² over its mean, the mean gradient's projection on the overall
    mean, and the squared signal-to-noise of a draw there."""
    pairs = len(gradient_PTMK)
    second_T = square(gradient_PTMK).mean(axis=(0, 2))
    cell_PTK = gradient_PTMK.mean(axis=2)
    pair_PK = cell_PTK.mean(axis=1)
    whole_TK, whole_K = cell_PTK.sum(axis=0), pair_PK.sum(axis=0)
    own_T = np.einsum("ptk,pk->t", cell_PTK, pair_PK)  # a pair with itself is left out
    toward_T = (whole_TK @ whole_K - own_T) / (pairs * (pairs - 1))
    signal_T = np.array([signal(cell_PTK[:, t]) for t in range(cell_PTK.shape[1])])
    return {
        "second_moment": second_T / second_T.mean(),
        "projection": toward_T,
        "signal_to_noise": signal_T / (second_T - signal_T),
    }


def importance(gradient_PTMK: np.ndarray, found: Parts) -> float:
    """The variance left where t is drawn in proportion to √E|g|² of its stratum and weighed by the
    inverse, the best that a density of t can do (Owen, Monte Carlo, chapter 9.1)."""
    second_T = square(gradient_PTMK).mean(axis=(0, 2))
    return float(np.sqrt(second_T).mean() ** 2) - found.signal


def by_pull(gradient_PTMK: np.ndarray, found: Parts) -> float:
    """The variance left where pairs are drawn in proportion to √E|g|² of each, so that those whose
    margins are saturated come seldom, and weighed by the inverse. A pair's density is taken from
    one half of its noises and judged by the other, or chance would look like a difference."""
    noises = gradient_PTMK.shape[2]
    halves = gradient_PTMK[:, :, : noises // 2], gradient_PTMK[:, :, noises // 2 :]
    second_P, other_P = (square(half).mean(axis=(1, 2)) for half in halves)
    left = [
        np.sqrt(given_P).mean() * (judged_P / np.sqrt(given_P)).mean()
        for given_P, judged_P in ((second_P, other_P), (other_P, second_P))
    ]
    return float(np.mean(left)) - found.signal


def opposite(pulls: Pulls) -> float:
    """The covariance of the gradients under a noise and its opposite, of a pair in a stratum: what
    remains of E g(ε)·g(−ε) without the product of two noises that have nothing to do with each
    other."""
    gradient_PTMK = pulls.gradient_PTMK
    noises = gradient_PTMK.shape[2]
    sum_PTK = gradient_PTMK.sum(axis=2)
    different = (square(sum_PTK) - square(gradient_PTMK).sum(axis=2)) / (noises * (noises - 1))
    across = np.einsum("ptk,ptk->pt", gradient_PTMK[:, :, 0], pulls.opposite_gradient_PTK)
    return float((across - different).mean())


def inside(pulls: Pulls) -> tuple[float, float]:
    """Signal |E g|² and variance of a pair's gradient with two draws inside the log-sigmoid, over
    all choices of two draws of a pair, those in one stratum as often as chance has them."""
    pairs, strata, noises, size = pulls.pull_PTMK.shape
    same = np.kron(np.eye(strata), np.ones((noises, noises)) - np.eye(noises))
    other = np.kron(1 - np.eye(strata), np.ones((noises, noises)))
    weight_JJ = same / (noises * (noises - 1) * strata**2) + other / (noises * strata) ** 2
    means, second = np.empty((pairs, size)), 0.0
    for p in range(pairs):
        pull_JK, logit_J = pulls.pull_PTMK[p].reshape(-1, size), pulls.logit_PTM[p].reshape(-1)
        slope_JJ = slope((logit_J[:, None] + logit_J) / 2) / 2
        means[p] = 2 * (weight_JJ * slope_JJ).sum(axis=1) @ pull_JK
        gram_JJ = pull_JK @ pull_JK.T
        own_J = np.diag(gram_JJ)
        norm_JJ = own_J[:, None] + own_J + 2 * gram_JJ
        second += float((weight_JJ * slope_JJ**2 * norm_JJ).sum()) / pairs
    found = signal(means)
    return found, second - found


def noisiest(gradient_PTMK: np.ndarray) -> tuple[float, float]:
    """Signal and variance of a draw from the strata with the most noise alone, the last ones."""
    strata = gradient_PTMK.shape[1]
    kept = gradient_PTMK[:, strata - max(1, round(NOISIEST * strata)) :]
    found = signal(kept.mean(axis=(1, 2)))
    return found, float(square(kept).mean()) - found


REMEDIES: dict[str, str] = {
    "stratified": "every stratum of t as often as the others in a step",
    "over visits": "every stratum once over a pair's visits; of the variance within a pair",
    "importance": "t by the density √E|g|², weighed: the same gradient in expectation",
    "pairs by pull": "pairs whose gradient is small seldom, weighed: the same in expectation",
    "two draws inside": "the margins of two draws averaged, beside twice as many pairs",
    "antithetic": "a noise and its opposite at one t, beside twice as many pairs",
    "noisiest": "t from the noisiest three tenths alone: another objective",
}


def gains(pulls: Pulls) -> dict[str, float]:
    """By how much each remedy multiplies the squared signal-to-noise at equal network calls."""
    gradient_PTMK = pulls.gradient_PTMK
    found = parts(gradient_PTMK)
    inside_signal, inside_variance = inside(pulls)
    few_signal, few_variance = noisiest(gradient_PTMK)
    now = found.signal / found.total
    with_opposite = found.total - found.noise + (found.noise + opposite(pulls)) / 2
    return {
        "stratified": found.total / (found.total - found.timestep),
        "over visits": (found.timestep + found.both + found.noise) / found.noise,
        "importance": found.total / importance(gradient_PTMK, found),
        "pairs by pull": found.total / by_pull(gradient_PTMK, found),
        "two draws inside": inside_signal / inside_variance / 2 / now,
        "antithetic": found.total / 2 / with_opposite,
        "noisiest": few_signal / few_variance / now,
    }


def shares(pulls: Pulls) -> dict[str, float]:
    """The parts as shares of the variance, the signal beside it, and the correlation of opposite
    noises."""
    found = parts(pulls.gradient_PTMK)
    named = ("timestep", "pair", "both", "noise")
    figures = {name: getattr(found, name) / found.total for name in named}
    return figures | {
        "signal_to_noise": found.signal / found.total,
        "opposite": opposite(pulls) / found.noise,
    }


def with_errors(
    figures: Callable[[Pulls], dict[str, float]], pulls: Pulls
) -> dict[str, tuple[float, float]]:
    """Figures with their standard errors over pairs, by leaving out each in turn (Efron & Stein
    1981)."""
    pairs = len(pulls.pull_PTMK)
    whole = figures(pulls)
    left_out = [figures(pulls.without(pair)) for pair in range(pairs)]
    errors = {
        name: float(np.sqrt((pairs - 1) * np.var([one[name] for one in left_out])))
        for name in whole
    }
    return {name: (value, errors[name]) for name, value in whole.items()}
