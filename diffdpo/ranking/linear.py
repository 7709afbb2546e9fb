"""Solving with the information matrix, which cannot see the common level of the strengths.

Shapes: ``P`` free parameters: the ``n`` strengths, then the home effect and the tie parameter where
there are any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from diffdpo.errors import UserError
from diffdpo.ranking.cells import Floats

# Above this many items the matrix is sparse, solved by conjugate gradients, and never inverted.
DENSE_LIMIT = 2000
# Rows that the dense solver eliminates at once.
BLOCK = 64

Solve = Callable[[Floats], Floats]


class Singular(Exception):
    """The information matrix is singular beyond the common level: some parameter runs away or is
    not identified."""


def scipy_sparse() -> Any:
    try:
        import scipy.sparse
    except ImportError:
        raise UserError(
            f'more than {DENSE_LIMIT} items need scipy: pip install "diffdpo[ranking]"'
        ) from None
    return scipy.sparse


def centred(x: Floats, size: int) -> Floats:
    """``x`` without the common level of the strengths."""
    return np.concatenate([x[:size] - x[:size].mean(axis=0), x[size:]])


def inverse(information_PP: Any, size: int, level: float) -> Solve:
    """v ↦ the inverse on the strengths that sum to zero, applied to v (P,) or (P, K).

    ``level`` is the information on the common level: the prior's precision, or 0 where there is no
    prior. Then the matrix H has the null vector u = (1, …, 1, 0, 0)/√n, and its pseudo-inverse is
    (H + c·uuᵀ)⁻¹ less its part along u, for any c."""
    if not isinstance(information_PP, np.ndarray):
        return lambda rhs: conjugate_gradients(information_PP, rhs, size)
    scale = np.sqrt(np.diag(information_PP))
    if not (scale > 0).all():
        raise Singular
    matrix: Floats = information_PP.copy()
    if not level:
        matrix[:size, :size] += (scale[:size] ** 2).mean() / size
    # Unit diagonal first: home effect and strengths may differ in scale by the number of games.
    try:
        factor_PP = np.linalg.cholesky(matrix / np.outer(scale, scale))
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


def conjugate_gradients(matrix_PP: Any, rhs: Floats, size: int, tolerance: float = 1e-12) -> Floats:
    """The same, for a sparse matrix: Hestenes & Stiefel (1952) preconditioned by the diagonal, all
    columns at once.

    A right-hand side without a common level keeps the iterates away from the null vector.
    """
    diagonal = matrix_PP.diagonal()[:, None]
    if not (diagonal > 0).all():
        raise Singular
    residual = centred(rhs.reshape(len(diagonal), -1), size)
    goal = tolerance * np.linalg.norm(residual, axis=0)
    found = np.zeros_like(residual)
    direction = step = residual / diagonal
    energy = (residual * step).sum(axis=0)
    for _ in range(20 * len(diagonal)):
        if (np.linalg.norm(residual, axis=0) <= goal).all():
            return centred(found, size).reshape(rhs.shape)
        image = matrix_PP @ direction
        bend = (direction * image).sum(axis=0)
        length = np.divide(energy, bend, out=np.zeros_like(energy), where=bend > 0)
        found = found + length * direction
        residual = residual - length * image
        step = residual / diagonal
        before, energy = energy, (residual * step).sum(axis=0)
        direction = (
            step
            + np.divide(energy, before, out=np.zeros_like(energy), where=before > 0) * direction
        )
    raise Singular
