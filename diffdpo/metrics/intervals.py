"""Means with honest intervals: resampled by cluster, because pictures of one prompt are not
independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffdpo.draws import Purpose, generator

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95 % interval, the number of values and of the clusters they fall into."""

    value: float
    interval: tuple[float, float]
    n: int
    clusters: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "value": self.value,
            "interval": list(self.interval),
            "n": self.n,
            "clusters": self.clusters,
        }

    def percent(self) -> str:
        """'71.3 % [62.0, 79.1]'."""
        low, high = (100 * bound for bound in self.interval)
        return f"{100 * self.value:.1f} % [{low:.1f}, {high:.1f}]"


def clustered_mean(values: Sequence[float], clusters: Sequence[Any], seed: int = 0) -> Estimate:
    """Mean of ``values`` with a percentile interval from resampling whole clusters (Efron &
    Tibshirani 1993, ch. 8).

    Raises ValueError for no values.
    """
    if len(values) == 0:
        raise ValueError("no values to average")
    names, index = np.unique(np.asarray([str(c) for c in clusters]), return_inverse=True)
    total = np.bincount(index, weights=np.asarray(values, dtype=np.float64))
    count = np.bincount(index).astype(np.float64)
    value = float(total.sum() / count.sum())
    picks = generator(seed, Purpose.BOOTSTRAP).integers(0, len(names), size=(RESAMPLES, len(names)))
    means = total[picks].sum(axis=1) / count[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(value, (float(low), float(high)), len(values), len(names))


def clustered_share(values: Sequence[float], clusters: Sequence[Any], seed: int = 0) -> Estimate:
    """The mean of numbers from 0 to 1, as ``clustered_mean``.

    Where all are 0 or all are 1 there is no spread to resample; they get Wilson's interval on the
    number of clusters, so that 20 wins of 20 are not reported as certain."""
    found = clustered_mean(values, clusters, seed)
    return (
        found
        if 0 < found.value < 1
        else replace(found, interval=wilson(found.value, found.clusters))
    )


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def win_rate(
    policy: np.ndarray, reference: np.ndarray, prompts: Sequence[str], seed: int = 0
) -> Estimate:
    """Share of pictures on which the policy scores higher, ties as 1/2; clustered by prompt."""
    wins = (np.sign(np.asarray(policy) - np.asarray(reference)) + 1) / 2
    return clustered_share(wins.tolist(), prompts, seed)
