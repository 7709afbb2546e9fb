"""Means with intervals by cluster, because pictures of one prompt are not independent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffdpo.batched import batched
from diffdpo.draws import Purpose, generator
from diffdpo.errors import UserError

RESAMPLES = 10_000
AT_ONCE = 1 << 20  # resampled clusters in memory at a time
# Below this number a bootstrap interval is too narrow; of one cluster it has no width at all.
FEW = 10
Z_975 = 1.959964  # the normal quantile of a 95 % interval
DUST = 1e-13  # of the largest value: what rounding leaves of a sum that comes to 0
# Student's t for a 95 % interval with 1, 2, … degrees of freedom.
T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060)


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, from ``n`` values in so many clusters.

    ``method`` is how the interval was made: bootstrap, wilson, t, or none, where there is only one
    cluster, which says nothing about others.
    """

    value: float
    interval: tuple[float, float]
    n: int
    clusters: int
    method: str = "bootstrap"

    def as_dict(self) -> dict[str, Any]:
        """The estimate for JSON, which has no infinity: a missing bound is null."""
        return {
            "value": self.value,
            "interval": [bound if math.isfinite(bound) else None for bound in self.interval],
            "n": self.n,
            "clusters": self.clusters,
            "method": self.method,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Estimate:
        """The estimate that ``as_dict`` wrote, perhaps beside other entries.

        Raises KeyError, TypeError or ValueError where it did not.
        """
        low, high = content["interval"]
        interval = (-math.inf if low is None else low, math.inf if high is None else high)
        value, n, clusters = (content[name] for name in ("value", "n", "clusters"))
        if not all(isinstance(number, (int, float)) for number in (value, *interval, n, clusters)):
            raise ValueError("a figure is no number")
        return cls(value, interval, n, clusters, content["method"])

    @property
    def caution(self) -> str:
        """A remark for a printed figure of few clusters; empty for others."""
        if self.clusters >= FEW:
            return ""
        return f" (too few: {self.clusters} prompt{'s' if self.clusters > 1 else ''})"

    def doubt(self, null: float, word: str) -> str:
        """Why the estimate does not differ significantly from ``null``, in brackets; '' where it
        does: the interval leaves ``null`` out, and there are enough clusters to trust it."""
        low, high = self.interval
        if low <= null <= high:
            return f" (not significant: the interval holds {word})"
        return f" (not significant: fewer than {FEW} prompts)" if self.clusters < FEW else ""

    def percent(self) -> str:
        """'71.3 % [62.0, 79.1]'."""
        low, high = (100 * bound for bound in self.interval)
        return f"{100 * self.value:.1f} % [{low:.1f}, {high:.1f}]{self.caution}"


@dataclass(frozen=True)
class Clusters:
    """The sum and the number of the values in each of ``G`` clusters."""

    total_G: np.ndarray
    count_G: np.ndarray

    @classmethod
    def of(cls, values: Sequence[float], names: Sequence[Any]) -> Clusters:
        """Group values by the names of their clusters.

        Raises ValueError for no values, and UserError for one that is not finite.
        """
        if len(values) == 0:
            raise ValueError("no values to average")
        if broken := int((~np.isfinite(values)).sum()):
            raise UserError(
                f"{broken} of {len(values)} values of a figure are not finite: a network's output"
                " overflows"
            )
        _, index = np.unique(np.asarray([str(name) for name in names]), return_inverse=True)
        total_G = np.bincount(index, weights=np.asarray(values, dtype=np.float64))
        return cls(total_G, np.bincount(index).astype(np.float64))

    def __len__(self) -> int:
        return len(self.total_G)

    @property
    def mean(self) -> float:
        """The mean of all values."""
        return float(self.total_G.sum() / self.count_G.sum())

    @property
    def effective(self) -> float:
        """(Σ n)² / Σ n²: as many clusters of equal size have a mean of the same variance (Kish
        1965)."""
        return float(self.count_G.sum() ** 2 / np.square(self.count_G).sum())


def clustered_mean(values: Sequence[float], clusters: Sequence[Any], seed: int = 0) -> Estimate:
    """Mean of ``values`` with a percentile interval from resampling whole clusters (Efron &
    Tibshirani 1993, ch. 8); of few clusters, Student's t interval; of one, no bounds.

    Raises ValueError for no values.
    """
    grouped = Clusters.of(values, clusters)
    if len(grouped) == 1:
        interval, method = (-math.inf, math.inf), "none"
    elif len(grouped) < FEW:
        interval, method = student(grouped), "t"
    else:
        interval, method = bootstrap(grouped, seed), "bootstrap"
    mean, low, high = (without_dust(number, values) for number in (grouped.mean, *interval))
    return Estimate(mean, (low, high), len(values), len(grouped), method)


def without_dust(number: float, values: Sequence[float]) -> float:
    """A mean of ``values``; 0 where it is rounding alone, or an interval would begin beside the 0
    that it holds."""
    return 0.0 if abs(number) < DUST * float(np.abs(values).max()) else number


def bootstrap(clusters: Clusters, seed: int) -> tuple[float, float]:
    """The middle 95 % of the means of ``RESAMPLES`` resamples of whole clusters."""
    size, random = len(clusters), generator(seed, Purpose.BOOTSTRAP)

    def means(count: int) -> np.ndarray:
        picks = random.integers(0, size, size=(count, size))
        mean_B: np.ndarray = clusters.total_G[picks].sum(axis=1)
        return mean_B / clusters.count_G[picks].sum(axis=1)

    return middle(resampled(means, RESAMPLES, size))


def resampled(means: Callable[[int], np.ndarray], resamples: int, size: int) -> np.ndarray:
    """The means of so many ``resamples``; ``means`` draws a number of them, of ``size`` each."""
    # In blocks, for memory. The stream of random numbers is the same for any size of block.
    found = np.empty(resamples)
    for block in batched(found, max(1, AT_ONCE // size)):
        block[:] = means(len(block))
    return found


def middle(values: np.ndarray) -> tuple[float, float]:
    """The bounds of the middle 95 %."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def student(clusters: Clusters) -> tuple[float, float]:
    """Mean ± t · s with G − 1 degrees of freedom, s² = (G − 1)/G Σ (m₋ᵢ − m)² from the means m₋ᵢ
    without one cluster (the jackknife: Efron & Tibshirani 1993, ch. 11)."""
    size, mean = len(clusters), clusters.mean
    without_G = (clusters.total_G.sum() - clusters.total_G) / (
        clusters.count_G.sum() - clusters.count_G
    )
    variance = (size - 1) / size * float(np.square(without_G - mean).sum())
    half = T_975[size - 2] * math.sqrt(variance)
    return mean - half, mean + half


def clustered_share(values: Sequence[float], clusters: Sequence[Any], seed: int = 0) -> Estimate:
    """The mean of numbers from 0 to 1, as ``clustered_mean``.

    Where all are 0 or all are 1 there is no spread to resample; they get Wilson's interval on the
    number of clusters, so that 20 wins of 20 are not reported as certain. So do few clusters, on
    their effective number: it holds however much the values of a cluster have in common.
    """
    grouped = Clusters.of(values, clusters)
    if len(grouped) < FEW:
        interval = wilson(grouped.mean, grouped.effective)
        return Estimate(grouped.mean, interval, len(values), len(grouped), "wilson")
    estimate = clustered_mean(values, clusters, seed)
    if 0 < estimate.value < 1:
        return estimate
    return replace(estimate, interval=wilson(estimate.value, estimate.clusters), method="wilson")


def crossed_share(
    values: Sequence[float], prompts: Sequence[Any], annotators: Sequence[Any], seed: int = 0
) -> Estimate:
    """The mean of numbers from 0 to 1, each of one prompt and one annotator, with a percentile
    interval from resampling both at once: a value counts as often as its prompt was drawn times as
    often as its annotator was (the pigeonhole bootstrap: Owen 2007).

    Of one annotator it is ``clustered_share``; so it is where all values are 0 or all are 1, and of
    few prompts.
    """
    alone = clustered_share(values, prompts, seed)
    people = sorted(set(map(str, annotators)))
    if len(people) == 1 or alone.method == "wilson":
        return alone
    names, row = np.unique(np.asarray([str(name) for name in prompts]), return_inverse=True)
    column = np.searchsorted(people, [str(name) for name in annotators])
    total_GA, count_GA = np.zeros((2, len(names), len(people)))
    np.add.at(total_GA, (row, column), np.asarray(values, dtype=np.float64))
    np.add.at(count_GA, (row, column), 1.0)
    random = generator(seed, Purpose.BOOTSTRAP)

    def means(count: int) -> np.ndarray:
        times_BG, times_BA = (
            random.multinomial(size, np.full(size, 1 / size), size=count)
            for size in (len(names), len(people))
        )
        sums = [((times_BG @ table) * times_BA).sum(axis=1) for table in (total_GA, count_GA)]
        with np.errstate(invalid="ignore"):  # a resample may hold none of the values
            mean_B: np.ndarray = sums[0] / sums[1]
        return mean_B

    found = resampled(means, RESAMPLES, len(names))
    return replace(alone, interval=middle(found[~np.isnan(found)]))


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share (Wilson 1927)."""
    z = Z_975
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and 1 a bound is the share itself, from which rounding may part it to either side.
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def win_rate(
    policy: np.ndarray, reference: np.ndarray, prompts: Sequence[str], seed: int = 0
) -> Estimate:
    """Share of pictures on which the policy scores higher, ties as 1/2; clustered by prompt."""
    wins = (np.sign(np.asarray(policy) - np.asarray(reference)) + 1) / 2
    return clustered_share(wins.tolist(), prompts, seed)
