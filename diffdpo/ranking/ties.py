"""ADD A TIE MODEL: the log-likelihood of one comparison as a function of its margin, and a row in
TIES.

Every model is made of the Bradley–Terry log-likelihood in ``diffdpo.preference``. ``margin`` is
θ_i − θ_j plus the home effect. ``outcome`` is the first item's share of the win: 1 a win, 1/2 a
tie, and in between (without a tie parameter) a soft label. Worths are π = exp θ.

The same function serves two callers: with tensors it is differentiated by autograd
(``BradleyTerry``), with a ``Jet`` it returns its derivatives itself and needs numpy alone
(``fit_bradley_terry``), because importing torch takes longer than most fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffdpo.ranking.jet import log_expm1, preference_log_likelihood, select


def half(margin: Any, outcome: Any, tie: Any) -> Any:
    """A tie is half a win for each: P(i≻j) = π_i/(π_i+π_j) = σ(θ_i−θ_j) (Bradley & Terry 1952). No
    tie parameter."""
    return preference_log_likelihood(margin, outcome)


def davidson(margin: Any, outcome: Any, tie: Any) -> Any:
    """P(i) ∝ π_i, P(j) ∝ π_j, P(tie) ∝ ν√(π_iπ_j) (Davidson 1970); ``tie`` is log ν.

    √(π_iπ_j)/(π_i+π_j) = √(σ(d)σ(−d)), so whether there is a tie is itself a preference, with
    margin log ν + ½(log σ(d) + log σ(−d)); and given that there is none, i wins with probability
    σ(d).
    """
    tied = tie + preference_log_likelihood(margin, 0.5)
    won = preference_log_likelihood(-tied) + preference_log_likelihood(
        margin, 1.0 * (outcome > 0.5)
    )
    return select(outcome == 0.5, preference_log_likelihood(tied), won)


def rao_kupper(margin: Any, outcome: Any, tie: Any) -> Any:
    """P(i) = π_i/(π_i+ϑπ_j), P(tie) = (ϑ²−1) P(i) P(j) (Rao & Kupper 1967); ``tie`` is log ϑ > 0.

    A win must clear the threshold log ϑ: P(i) = σ(d − log ϑ).
    """
    i_wins = preference_log_likelihood(margin - tie)
    j_wins = preference_log_likelihood(-margin - tie)
    tied = log_expm1(2 * tie) + i_wins + j_wins
    return select(outcome == 0.5, tied, select(outcome > 0.5, i_wins, j_wins))


@dataclass(frozen=True)
class TieModel:
    """A likelihood, the symbol of its tie parameter ("" for none), and a start from the share of
    ties."""

    log_likelihood: Callable[[Any, Any, Any], Any]
    symbol: str = ""
    start: Callable[[float], float] = lambda share: 0.0


TIES: dict[str, TieModel] = {
    "half": TieModel(half),
    # Between equal items the share of ties is ν/(ν+2) and (ϑ−1)/(ϑ+1).
    "davidson": TieModel(davidson, "nu", lambda share: math.log(2 * share / (1 - share))),
    "rao-kupper": TieModel(rao_kupper, "theta", lambda share: math.log((1 + share) / (1 - share))),
}
# As half wins are, but with the ties taken out of the data first.
DROP = "drop"
CHOICES = (*TIES, DROP)
