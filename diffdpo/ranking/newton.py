"""The maximum of the likelihood by Newton's method, and the inverse of its information matrix.

Shapes: ``P`` free parameters: the ``n`` strengths, then the home effect and the tie parameter where
there are any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffdpo.ranking.cells import Floats
from diffdpo.ranking.elimination import BLOCK, Blocks, Elimination, Singular, Solve, anchored
from diffdpo.ranking.likelihood import Likelihood, Slopes

# Newton's error squares at each step, so a step this small leaves nothing but rounding.
LAST_STEP = 1e-7
# On its way to infinity each step adds about one nat; a maximum that exists takes about ten.
STEPS = 60
# exp(−30) of a game: where a tail is that thin, nothing in the data holds a parameter back.
FAR = 30.0
# Eliminating blocks wider than this takes longer than the steps of conjugate gradients it saves.
NARROW = 512
RESIDUAL = 1e-12  # of the right-hand side, at which conjugate gradients have arrived


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
            solve = inverse(likelihood.information(slopes), likelihood.size)
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


def centred(x: Floats, size: int) -> Floats:
    """``x`` without the common level of the strengths."""
    return np.concatenate([x[:size] - x[:size].mean(axis=0), x[size:]])


def inverse(information_PP: Any, size: int) -> Solve:
    """v ↦ the inverse on the strengths that sum to zero, applied to v (P,) or (P, K).

    The common level, along u = (1, …, 1, 0, 0)/√n, is an eigenvector of the matrix H: its
    information is that of the prior, or 0. So the inverse wanted is (H + c·uuᵀ)⁻¹ less what lies
    along u, for any c; a c like the diagonal keeps a weak prior from costing digits.
    """
    if not isinstance(information_PP, np.ndarray):
        precondition = preconditioner(information_PP, size)
        return lambda rhs: conjugate_gradients(information_PP, rhs, size, precondition)
    scale = np.sqrt(np.diag(information_PP))
    if not (scale > 0).all():
        raise Singular
    matrix = information_PP.copy()
    matrix[:size, :size] += (scale[:size] ** 2).mean() / size
    # Unit diagonal first: home effect and strengths may differ in scale by the number of games.
    try:
        factor_PP = np.asarray(np.linalg.cholesky(matrix / np.outer(scale, scale)), np.float64)
    except np.linalg.LinAlgError:
        raise Singular from None
    if not factor_PP.diagonal().min() > 1e-7:
        raise Singular

    def solve(rhs: Floats) -> Floats:
        columns = rhs.reshape(len(scale), -1) / scale[:, None]
        half_way = lower_solve(factor_PP, columns)
        # Lᵀ read backwards is a lower triangle too.
        solution = lower_solve(factor_PP.T[::-1, ::-1], half_way[::-1])[::-1]
        return centred(solution / scale[:, None], size).reshape(rhs.shape)

    return solve


def lower_solve(lower_PP: Floats, rhs_PK: Floats) -> Floats:
    """L⁻¹ applied to columns, block by block: numpy itself has no triangular solver."""
    solution_PK = rhs_PK.copy()
    for start in range(0, len(lower_PP), BLOCK):
        rows = slice(start, start + BLOCK)
        solution_PK[rows] -= lower_PP[rows, :start] @ solution_PK[:start]
        solution_PK[rows] = np.linalg.solve(lower_PP[rows, rows], solution_PK[rows])
    return solution_PK


def preconditioner(matrix_PP: Any, size: int) -> Solve:
    """An approximate inverse for conjugate gradients, which then need few steps either way.

    Where every item meets a few others near to it, as in a chain, the steps grow with the chain's
    length, but elimination is cheap; in a random graph it is not, and the diagonal will do.
    """
    diagonal_P = matrix_PP.diagonal()[:, None]
    if not (diagonal_P > 0).all():
        raise Singular
    anchored_nn, _, _ = anchored(matrix_PP[:size, :size])
    blocks = Blocks.of(anchored_nn)
    if blocks.widths.max() > NARROW:
        return lambda residual: residual / diagonal_P
    elimination = Elimination(anchored_nn, blocks)
    return lambda residual: np.concatenate(
        [elimination.solve(residual[:size]), residual[size:] / diagonal_P[size:]]
    )


def conjugate_gradients(matrix_PP: Any, rhs: Floats, size: int, precondition: Solve) -> Floats:
    """The same for a sparse matrix (Hestenes & Stiefel 1952), all columns at once.

    A right-hand side without a common level keeps the residuals away from the null vector.
    """
    residual = centred(rhs.reshape(matrix_PP.shape[0], -1), size)
    goal = RESIDUAL * np.linalg.norm(residual, axis=0)
    solution = np.zeros_like(residual)
    direction = step = precondition(residual)
    energy = (residual * step).sum(axis=0)
    for _ in range(20 * len(residual)):
        if (np.linalg.norm(residual, axis=0) <= goal).all():
            return centred(solution, size).reshape(rhs.shape)
        image = matrix_PP @ direction
        bend = (direction * image).sum(axis=0)
        length = np.divide(energy, bend, out=np.zeros_like(energy), where=bend > 0)
        solution = solution + length * direction
        residual = residual - length * image
        step = precondition(residual)
        before, energy = energy, (residual * step).sum(axis=0)
        ratio = np.divide(energy, before, out=np.zeros_like(energy), where=before > 0)
        direction = step + ratio * direction
    raise Singular
