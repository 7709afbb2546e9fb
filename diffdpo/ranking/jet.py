"""Functions of a margin d and a tie parameter t that carry their derivatives with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffdpo.ranking.cells import Floats


@dataclass(frozen=True)
class Jet:
    """f(d, t) for each of ``C`` cells with its first and second derivatives (a 2-jet).

    The rows of ``terms_6C`` are f, f_d, f_t, f_dd, f_dt, f_tt. Sums and multiples act on all rows
    alike; other functions go through ``chain``.
    """

    terms_6C: Floats

    @staticmethod
    def variables(margin_C: Floats, tie: float) -> tuple[Jet, Jet]:
        """d and t themselves."""
        margin, parameter = np.zeros((6, len(margin_C))), np.zeros((6, len(margin_C)))
        margin[0], margin[1] = margin_C, 1.0
        parameter[0], parameter[2] = tie, 1.0
        return Jet(margin), Jet(parameter)

    def chain(self, f: Floats, slope: Floats, bend: Floats) -> Jet:
        """g(f(d, t)), from g, g′ and g″ at f."""
        _, d, t, dd, dt, tt = self.terms_6C
        second = [slope * dd + bend * d * d, slope * dt + bend * d * t, slope * tt + bend * t * t]
        return Jet(np.stack([f, slope * d, slope * t, *second]))

    def __add__(self, other: Jet) -> Jet:
        return Jet(self.terms_6C + other.terms_6C)

    def __sub__(self, other: Jet) -> Jet:
        return Jet(self.terms_6C - other.terms_6C)

    def __neg__(self) -> Jet:
        return Jet(-self.terms_6C)

    def __rmul__(self, factor: float) -> Jet:
        return Jet(factor * self.terms_6C)


def preference_log_likelihood(margin: Any, outcome: Any = 1.0) -> Any:
    """``diffdpo.preference.preference_log_likelihood``, for jets as well:
    y log σ(d) + (1 − y) log σ(−d), with slope y σ(−d) − (1 − y) σ(d) and second derivative
    −σ(d) σ(−d)."""
    if not isinstance(margin, Jet):
        from diffdpo import preference  # here: a fit must not have to import torch

        return preference.preference_log_likelihood(margin, outcome)
    d = margin.terms_6C[0]
    # log σ(±d) = min(±d, 0) − log(1 + exp(−|d|)): nothing overflows and no digit cancels.
    tail = np.log1p(np.exp(-np.abs(d)))
    log_won, log_lost = np.minimum(d, 0) - tail, np.minimum(-d, 0) - tail
    won, lost = np.exp(log_won), np.exp(log_lost)
    return margin.chain(
        outcome * log_won + (1 - outcome) * log_lost,
        outcome * lost - (1 - outcome) * won,
        -won * lost,
    )


def log_expm1(x: Any) -> Any:
    """log(eˣ − 1) for x > 0; NaN below 0, which a line search takes as worse than anything."""
    if not isinstance(x, Jet):
        return x.expm1().log()
    with np.errstate(all="ignore"):
        slope = -1 / np.expm1(-x.terms_6C[0])
        return x.chain(np.log(np.expm1(x.terms_6C[0])), slope, slope * (1 - slope))


def select(condition: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the condition holds, else ``no``."""
    if isinstance(yes, Jet):
        return Jet(np.where(condition, yes.terms_6C, no.terms_6C))
    return yes.where(condition, no)
