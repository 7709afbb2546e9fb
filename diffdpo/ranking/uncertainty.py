"""Standard errors from the curvature, and what they say about differences and ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from diffdpo.draws import Purpose, generator
from diffdpo.ranking.cells import Codes, Floats
from diffdpo.ranking.likelihood import Likelihood
from diffdpo.ranking.linear import Solve
from diffdpo.ranking.newton import Maximum

PROBES = 256


@dataclass(frozen=True)
class Covariance:
    """The covariance of the parameters as an operator, and as a matrix (P, P) where the items are
    few enough."""

    apply: Solve
    matrix: Floats | None
    diagonal: Floats

    def between(self, i: int, j: int) -> float:
        """Variance of the difference of parameters i and j."""
        contrast = np.zeros(len(self.diagonal))
        contrast[i], contrast[j] = 1.0, -1.0
        return float(contrast @ self.apply(contrast))


def of_samples(found_SP: Floats) -> Covariance:
    """The covariance of resampled parameters."""
    centred_SP = found_SP - found_SP.mean(axis=0)
    free = len(found_SP) - 1
    return Covariance(
        lambda v: centred_SP.T @ (centred_SP @ v) / free, None, (centred_SP**2).sum(axis=0) / free
    )


def of_maximum(likelihood: Likelihood, maximum: Maximum, kind: str, seed: int) -> Covariance:
    """Under Σθ = 0: the inverse information H⁻¹ ("fisher"), or H⁻¹ G H⁻¹ with G = Σ score·scoreᵀ
    ("sandwich", Huber 1967), which also holds where outcomes are soft, weighted, or noisier than
    the model says."""
    apply = maximum.solve
    if kind == "sandwich":
        scatter_PP = likelihood.scatter(maximum.slopes)

        def apply(v: Floats) -> Floats:
            return maximum.solve(scatter_PP @ maximum.solve(v))

    parameters = len(maximum.x_P)
    if likelihood.size <= likelihood.dense_limit:
        matrix_PP = apply(np.eye(parameters))
        return Covariance(lambda v: matrix_PP @ v, matrix_PP, np.maximum(np.diag(matrix_PP), 0.0))
    return Covariance(apply, None, probed_diagonal(apply, parameters, likelihood.size, seed))


def probed_diagonal(
    apply: Callable[[Floats], Floats], parameters: int, size: int, seed: int
) -> Floats:
    """The diagonal of an operator nobody can write down: the mean of z ⊙ Vz over random signs z
    (Hutchinson 1990; Bekas et al. 2007), off by a few per cent; exact for the home effect and the
    tie parameter."""
    signs = generator(seed, Purpose.BOOTSTRAP, draw=-1).choice(
        [-1.0, 1.0], size=(parameters, PROBES)
    )
    signs[size:] = 0.0
    diagonal = (signs * apply(signs)).mean(axis=1)
    if parameters > size:
        extras = np.eye(parameters, parameters - size, k=-size)
        diagonal[size:] = np.diag(apply(extras)[size:])
    return np.maximum(diagonal, 0.0)


def quantile(tail: float) -> float:
    """How many standard errors leave ``tail`` outside, on both sides together."""
    return NormalDist().inv_cdf(1 - tail / 2)


def ranks(strength: Floats) -> Codes:
    """1 for the strongest; equal strengths share the better rank."""
    ordered = np.sort(-strength)
    # Strengths equal but for rounding are equal.
    return np.searchsorted(ordered, -strength - 1e-9) + 1


def rank_intervals(strength: Floats, covariance: Covariance, level: float) -> Codes:
    """(n, 2): for each item, the ranks not ruled out: 1 + how many items are surely stronger, n −
    how many are surely weaker, by intervals for its differences from all others that hold at once
    (Bonferroni; Mogstad et al. 2024).

    Without a covariance matrix, by intervals of all strengths that hold at once (Klein et al.
    2020), which are wider."""
    n = len(strength)
    if covariance.matrix is None:
        margin = quantile((1 - level) / n) * np.sqrt(covariance.diagonal[:n])
        low, high = strength - margin, strength + margin
        stronger = n - np.searchsorted(np.sort(low), high, side="right")
        weaker = np.searchsorted(np.sort(high), low, side="left")
    else:
        matrix, variance = covariance.matrix[:n, :n], covariance.diagonal[:n]
        spread = np.sqrt(np.maximum(variance[:, None] + variance - 2 * matrix, 0.0))
        sure = strength - strength[:, None] > quantile((1 - level) / max(n - 1, 1)) * spread + 1e-9
        stronger, weaker = sure.sum(axis=1), sure.sum(axis=0)
    return np.stack([1 + stronger, n - weaker], axis=1)
