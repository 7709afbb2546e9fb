"""The result of a fit."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffdpo.errors import UserError
from diffdpo.ranking.cells import Codes, Floats
from diffdpo.ranking.uncertainty import Covariance, quantile, ranks


@dataclass(frozen=True)
class ParameterEstimate:
    """A number with its standard error and interval."""

    value: float
    stderr: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Ranking:
    """Strengths of items in nats, with mean zero: σ(θ_i − θ_j) is the probability that i is
    preferred to j.

    Arrays are aligned with ``items``, which are sorted where they can be compared, else in order of
    appearance.
    """

    items: list[Hashable]
    strength: Floats
    stderr: Floats
    interval: Floats  # (n, 2)
    rank_interval: Codes  # (n, 2)
    wins: Floats  # a tie is half a win, a soft label its share
    games: Floats
    log_likelihood: float  # in nats, of the outcomes as they came, without the prior
    home: ParameterEstimate | None  # log-odds in favour of the item shown first
    tie: ParameterEstimate | None  # log ν or log ϑ
    method: dict[str, Any]
    groups: list[list[Hashable]]  # one where a chain of wins links every item to every other
    skipped: list[str]
    covariance: Covariance

    @property
    def connected(self) -> bool:
        """Whether a chain of wins links every item to every other, so that no prior is needed."""
        return len(self.groups) == 1

    @property
    def rank(self) -> Codes:
        """1 for the strongest item; equal strengths share a rank."""
        return ranks(self.strength)

    @property
    def worth(self) -> Floats:
        """The exp form: π = exp θ, scaled to sum to one; P(i≻j) = π_i/(π_i+π_j)."""
        worth = np.exp(self.strength - self.strength.max())
        return worth / worth.sum()

    @property
    def tie_parameter(self) -> float | None:
        """Davidson's ν or Rao and Kupper's ϑ; None where ties have no parameter."""
        return None if self.tie is None else math.exp(self.tie.value)

    def probability(self, i: Hashable, j: Hashable) -> float:
        """P(i≻j) = σ(θ_i − θ_j) = π_i/(π_i+π_j), without the home effect.

        With ties as half wins this is the expected share of the win; in Davidson's model the
        probability given that one of them wins; in Rao and Kupper's the probability that there
        would be without the threshold.
        """
        margin = float(self.strength[self.index(i)] - self.strength[self.index(j)])
        # σ(d) = ½ + ½ tanh(d/2), which overflows nowhere.
        return 0.5 + 0.5 * math.tanh(margin / 2)

    def difference(self, i: Hashable, j: Hashable) -> ParameterEstimate:
        """θ_i − θ_j. Its standard error is not the two strengths' errors added up: those are
        correlated."""
        first, second = self.index(i), self.index(j)
        stderr = math.sqrt(max(self.covariance.between(first, second), 0.0))
        return normal_estimate(
            float(self.strength[first] - self.strength[second]), stderr, self.method["level"]
        )

    def index(self, item: Hashable) -> int:
        """Where ``item`` is in the arrays."""
        try:
            return self.items.index(item)
        except ValueError:
            raise UserError(
                f"no item {item!r} among the {len(self.items)} that were compared"
            ) from None


def normal_estimate(value: float, stderr: float, level: float) -> ParameterEstimate:
    """An estimate with its normal interval at ``level``."""
    margin = quantile(1 - level) * stderr
    return ParameterEstimate(value, stderr, (value - margin, value + margin))
