"""Standard errors from the curvature or from resampled games, and what they say about ranks.

Shapes: ``P`` parameters, the ``n`` strengths first; ``S`` samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from tqdm import tqdm

from diffdpo.draws import Purpose, generator
from diffdpo.engine.failures import machine_memory
from diffdpo.errors import UserError
from diffdpo.ranking.cells import Codes, Floats
from diffdpo.ranking.elimination import Blocks, Solve, exact_variances
from diffdpo.ranking.likelihood import Likelihood
from diffdpo.ranking.newton import Maximum, NoMaximum, maximise

# Beyond these, exact variances take longer than about a minute, or too much memory.
EXACT_WORK = 1e12  # floating-point operations
EXACT_MEMORY = 2e9  # bytes
# What the complex arithmetic of the sandwich costs: in operations, and in bytes.
COMPLEX_WORK, COMPLEX_MEMORY = 8, 3
# Samples from which variances are estimated where they are not exact, and how many at a time.
SAMPLES = 512
SAMPLES_AT_ONCE = 64
# Leaving out resamples without a maximum leaves out the most extreme ones; a few do no harm.
TOLERATED_FAILURES = 0.05


@dataclass(frozen=True)
class Covariance:
    """The covariance of the parameters as an operator, and as a matrix (P, P) where the items are
    few enough."""

    apply: Solve
    matrix: Floats | None
    diagonal: Floats
    # Of the variances of the strengths, where they are estimated from samples; None where exact.
    freedom: int | None = None

    def between(self, i: int, j: int) -> float:
        """Variance of the difference of parameters i and j."""
        contrast = np.zeros(len(self.diagonal))
        contrast[i], contrast[j] = 1.0, -1.0
        return float(contrast @ self.apply(contrast))

    def margin(self, tail: float) -> Floats:
        """(P,): half the width of intervals that leave ``tail`` outside, on both sides together."""
        return quantile(tail, self.freedom) * np.sqrt(self.diagonal)


def of_samples(samples_SP: Floats) -> Covariance:
    """The covariance of resampled parameters."""
    centred_SP = samples_SP - samples_SP.mean(axis=0)
    free = len(samples_SP) - 1
    return Covariance(
        lambda v: centred_SP.T @ (centred_SP @ v) / free, None, (centred_SP**2).sum(axis=0) / free
    )


def of_maximum(likelihood: Likelihood, maximum: Maximum, kind: str, seed: int) -> Covariance:
    """Under Σθ = 0: the inverse information H⁻¹ ("fisher"), or H⁻¹ G H⁻¹ with G = Σ score·scoreᵀ
    ("sandwich", Huber 1967), which also holds where outcomes are soft, weighted, or noisier than
    the model says."""
    apply = maximum.solve
    scatter_PP = likelihood.scatter(maximum.slopes) if kind == "sandwich" else None
    if scatter_PP is not None:

        def apply(v: Floats) -> Floats:
            return maximum.solve(scatter_PP @ maximum.solve(v))

    if likelihood.size <= likelihood.dense_limit:
        matrix_PP = apply(np.eye(len(maximum.x_P)))
        # A sandwich of scores that are all zero has variance zero, but for rounding.
        return Covariance(lambda v: matrix_PP @ v, matrix_PP, np.maximum(np.diag(matrix_PP), 0.0))
    size, information_PP = likelihood.size, likelihood.information(maximum.slopes)
    blocks = Blocks.of(information_PP[:size, :size])
    work, memory = (1, 1) if scatter_PP is None else (COMPLEX_WORK, COMPLEX_MEMORY)
    if work * blocks.work <= EXACT_WORK and memory * blocks.memory <= EXACT_MEMORY:
        variances = exact_variances(
            information_PP, scatter_PP, size, likelihood.level, maximum.solve
        )
        return Covariance(apply, None, np.maximum(variances, 0.0))
    variances = sampled_variances(likelihood, maximum, kind, seed)
    beside = np.eye(len(variances), len(variances) - size, k=-size)
    variances[size:] = np.diag(apply(beside)[size:])
    return Covariance(apply, None, variances, SAMPLES)


def sampled_variances(likelihood: Likelihood, maximum: Maximum, kind: str, seed: int) -> Floats:
    """Variances of normal samples with the covariance asked for, where exact ones cost too much.

    With y ~ N(0, H), H⁻¹y has covariance H⁻¹ (Papandreou & Yuille 2010), and with y ~ N(0, G)
    H⁻¹ G H⁻¹; y is a sum of independent normals, one a cell. Each variance s² is then distributed
    as σ²χ²_S/S whatever the comparisons: never zero or negative, and a standard error is off by
    1/√(2S) = 3.1 % (one sigma; 99.9 % of them by less than 11 %). Because s² is independent of the
    estimate, Student's t with S degrees of freedom makes up for it: the intervals cover exactly as
    often as those with σ do, and are 0.2 % wider on average at level 0.95.
    """
    draws = generator(seed, Purpose.BOOTSTRAP, draw=-1)
    total_P = np.zeros(len(maximum.x_P))
    for _ in range(0, SAMPLES, SAMPLES_AT_ONCE):
        noise_PS = likelihood.noise(maximum.slopes, kind, draws, SAMPLES_AT_ONCE)
        total_P += (maximum.solve(noise_PS) ** 2).sum(axis=1)
    return total_P / SAMPLES


def resampled(
    likelihood: Likelihood, best_P: Floats, samples: int, seed: int, progress: bool
) -> tuple[Floats, int]:
    """(S, P) parameters fitted to games drawn with replacement, and in how many resamples there was
    no maximum."""
    needed, there = 8 * samples * len(best_P), machine_memory()
    if needed > there:
        raise UserError(
            f"bootstrap_samples: {samples:,} of {len(best_P):,} parameters need"
            f" {needed / 2**30:,.0f} GiB of memory, this machine has {there / 2**30:.0f}"
        )
    count = likelihood.cells.count
    total, fitted = int(count.sum()), []
    for sample in tqdm(range(samples), desc="bootstrap", disable=None if progress else True):
        draws = generator(seed, Purpose.BOOTSTRAP, draw=sample)
        count_C = draws.multinomial(total, count / count.sum()).astype(np.float64)
        try:
            fitted.append(maximise(likelihood.counted(count_C), best_P).x_P)
        except NoMaximum:
            continue
    failed = samples - len(fitted)
    if failed > TOLERATED_FAILURES * samples:
        raise UserError(
            f"bootstrap: {failed} of {samples} resamples have no finite maximum, so the intervals"
            " would be too short; set a prior (prior_std) or use the interval `sandwich`"
        )
    return np.array(fitted), failed


def percentiles(samples_SP: Floats, level: float) -> Floats:
    """(P, 2): what the middle ``level`` of the resampled values spans."""
    tail = (1 - level) / 2
    return np.quantile(samples_SP, [tail, 1 - tail], axis=0).T


def quantile(tail: float, freedom: int | None = None) -> float:
    """How many standard errors leave ``tail`` outside, on both sides together: the normal quantile,
    or Student's t with so many degrees of freedom."""
    if freedom is None:
        return NormalDist().inv_cdf(1 - tail / 2)
    from scipy.special import stdtrit

    return float(-stdtrit(freedom, tail / 2))


def ranks(strength: Floats) -> Codes:
    """1 for the strongest; equal strengths share the better rank."""
    ordered = np.sort(-strength)
    # Strengths equal but for rounding are equal.
    return np.searchsorted(ordered, -strength - 1e-9) + 1


def rank_percentiles(strength_Sn: Floats, level: float) -> Codes:
    """(n, 2): what the middle ``level`` of the resampled ranks spans, rounded outwards."""
    tail = (1 - level) / 2
    rank_Sn = np.array([ranks(strength) for strength in strength_Sn])
    low = np.quantile(rank_Sn, tail, axis=0, method="lower")
    high = np.quantile(rank_Sn, 1 - tail, axis=0, method="higher")
    return np.stack([low, high], axis=1).astype(np.int64)


def rank_intervals(strength: Floats, covariance: Covariance, level: float) -> Codes:
    """(n, 2): for each item, the ranks not ruled out: 1 + how many items are surely stronger, n −
    how many are surely weaker, by intervals for its differences from all others that hold at once
    (Bonferroni; Mogstad et al. 2024).

    Without a covariance matrix, by intervals of all strengths that hold at once (Klein et al.
    2020), which are wider.
    """
    n = len(strength)
    if covariance.matrix is None:
        margin = covariance.margin((1 - level) / n)[:n]
        low, high = strength - margin, strength + margin
        stronger = n - np.searchsorted(np.sort(low), high, side="right")
        weaker = np.searchsorted(np.sort(high), low, side="left")
    else:
        matrix, variance = covariance.matrix[:n, :n], covariance.diagonal[:n]
        spread = np.sqrt(np.maximum(variance[:, None] + variance - 2 * matrix, 0.0))
        sure = strength - strength[:, None] > quantile((1 - level) / max(n - 1, 1)) * spread + 1e-9
        stronger, weaker = sure.sum(axis=1), sure.sum(axis=0)
    return np.stack([1 + stronger, n - weaker], axis=1)
