"""The maximum of the likelihood by Newton's method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffdpo.ranking.cells import Floats
from diffdpo.ranking.likelihood import Likelihood, Slopes
from diffdpo.ranking.linear import Singular, Solve, inverse

# Newton's error squares at each step, so a step this small leaves nothing but rounding.
LAST_STEP = 1e-7
# On its way to infinity each step adds about one nat; a maximum that exists takes about ten.
STEPS = 60
# exp(−30) of a game: where a tail is that thin, nothing in the data holds a parameter back.
FAR = 30.0


class NoMaximum(Exception):
    """The likelihood grows without end; ``parameter`` says along what."""

    def __init__(self, parameter: str) -> None:
        super().__init__(parameter)
        self.parameter = parameter


@dataclass(frozen=True)
class Maximum:
    """Where the likelihood is greatest, and its curvature there."""

    x_P: Floats
    slopes: Slopes
    solve: Solve
    steps: int


def maximise(likelihood: Likelihood, start_P: Floats | None = None) -> Maximum:
    """Newton steps, halved until the likelihood does not fall. All three models are concave in
    these parameters.

    Raises NoMaximum instead of returning a large number that is still growing.
    """
    x_P = likelihood.start() if start_P is None else start_P
    value, biggest = likelihood.value(x_P), np.inf
    for steps in range(STEPS):
        slopes = likelihood.slopes(x_P)
        try:
            solve = inverse(likelihood.information(slopes), likelihood.size, likelihood.level)
            step_P = solve(likelihood.gradient(slopes, x_P)) if biggest > LAST_STEP else None
        except Singular:
            raise NoMaximum(_suspect(likelihood, x_P)) from None
        if step_P is None:
            return Maximum(x_P, slopes, solve, steps)
        x_P, value, biggest = _halved(likelihood, x_P, step_P, value)
        if np.abs(x_P[likelihood.size :]).max(initial=0.0) > FAR:
            break
    raise NoMaximum(_suspect(likelihood, x_P))


def _halved(
    likelihood: Likelihood, x_P: Floats, step_P: Floats, value: float
) -> tuple[Floats, float, float]:
    """The longest of step, step/2, step/4, … that does not lower the likelihood (but for
    rounding)."""
    slack = 1e-12 * abs(value)
    for _ in range(40):
        after = likelihood.value(x_P + step_P)
        if after >= value - slack:
            return x_P + step_P, after, float(np.abs(step_P).max())
        step_P = step_P / 2
    raise NoMaximum(_suspect(likelihood, x_P))


def _suspect(likelihood: Likelihood, x_P: Floats) -> str:
    """The parameter that ran furthest from where it started."""
    moved = np.abs(x_P - likelihood.start())
    furthest = int(moved.argmax())
    if furthest >= likelihood.size:
        return likelihood.extras[furthest - likelihood.size]
    # At the very start nothing has moved: with the items connected, only the home effect can be at
    # fault.
    return "home" if moved[furthest] == 0 and likelihood.home else "strength"
