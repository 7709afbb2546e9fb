"""Exact solutions and exact variances for many items: the sparse information matrix eliminated
block by block.

Items are put in an order in which comparisons link only neighbouring blocks, so the matrix is block
tridiagonal. Blocks are eliminated from both ends towards the widest one, the root. The work grows
with the cube of the blocks' widths: items that meet their neighbours in a league or in time have
narrow blocks, a random graph has a few wide ones.

Shapes: ``n`` items; ``P`` parameters: their strengths, then the home effect and the tie parameter
where there are any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from diffdpo.errors import UserError
from diffdpo.ranking.cells import Codes, Floats

Solve = Callable[[Floats], Floats]

# Above this many items the matrix is sparse and never inverted as a whole.
DENSE_LIMIT = 2000
# Items that are eliminated at once at least.
BLOCK = 64
# Imaginary step of the derivative in ``exact_variances``; its square must vanish beside 1.
STEP = 1e-20


class Singular(Exception):
    """The information matrix is singular beyond the common level: some parameter runs away or is
    not identified."""


def scipy_sparse() -> Any:
    """scipy.sparse, or which extra to install."""
    try:
        import scipy.sparse
    except ImportError:
        raise UserError(
            f'more than {DENSE_LIMIT} items need scipy: pip install "diffdpo[ranking]"'
        ) from None
    return scipy.sparse


@dataclass(frozen=True)
class Blocks:
    """An order of the items, cut into blocks of which only neighbouring ones are linked."""

    order: Codes
    bounds: list[int]  # block k is order[bounds[k] : bounds[k + 1]]

    @classmethod
    def of(cls, matrix_nn: Any) -> Blocks:
        """By breadth-first search (Cuthill & McKee 1969), which keeps linked items near to each
        other."""
        from scipy.sparse.csgraph import reverse_cuthill_mckee

        order = reverse_cuthill_mckee(matrix_nn, symmetric_mode=True)[::-1]
        permuted = matrix_nn[order][:, order]
        permuted.sort_indices()
        # One past the last item that any item up to here is linked to.
        reach = np.maximum.accumulate(permuted.indices[permuted.indptr[1:] - 1]) + 1
        levels, n = [0], len(order)
        while levels[-1] < n:
            levels.append(int(reach[levels[-1] - 1]) if len(levels) > 1 else 1)
            levels[-1] = max(levels[-1], levels[-2] + 1)  # where the next item is not linked
        # Narrow levels together cost less than one by one.
        bounds = [0]
        for start, end in pairwise(levels):
            if end - bounds[-1] > BLOCK and start > bounds[-1]:
                bounds.append(start)
        return cls(order, [*bounds, n])

    @property
    def widths(self) -> Codes:
        """The number of items in each block."""
        return np.diff(self.bounds)

    def rows(self, block: int) -> slice:
        """The places of the items of a block in ``order``."""
        return slice(self.bounds[block], self.bounds[block + 1])

    @property
    def work(self) -> float:
        """Floating-point operations of ``Elimination.inverse_diagonal``, about."""
        cubes = self.widths.astype(np.float64) ** 3
        return float(6 * cubes.sum() - 5 * cubes.max())

    @property
    def memory(self) -> float:
        """Bytes that the eliminated blocks and the temporary ones take, about."""
        squares = self.widths.astype(np.float64) ** 2
        return float(8 * (squares.sum() + 3 * squares.max()))


class Elimination:
    """A symmetric matrix (n, n), real or complex, with the diagonal blocks of its Schur complements
    inverted."""

    def __init__(self, matrix_nn: Any, blocks: Blocks) -> None:
        self.blocks = blocks
        permuted = matrix_nn[blocks.order][:, blocks.order]
        root, last = int(blocks.widths.argmax()), len(blocks.widths) - 1
        # Each block is eliminated into its neighbour on the way to the root.
        self.steps = [(block, block + 1) for block in range(root)]
        self.steps += [(block, block - 1) for block in range(last, root, -1)]
        self.root = root
        self.links: dict[int, Any] = {}  # rows of the neighbour, columns of the block
        self.pivots: dict[int, Any] = {}
        passed_on: dict[int, Any] = {}
        for block, neighbour in [*self.steps, (root, None)]:
            columns = permuted[:, blocks.rows(block)].tocsr()
            pivot = columns[blocks.rows(block)].toarray()
            pivot -= passed_on.pop(block, 0.0)
            self.pivots[block] = pivot = symmetric_inverse(pivot)
            if neighbour is not None:
                self.links[block] = link = columns[blocks.rows(neighbour)]
                passed_on[neighbour] = passed_on.get(neighbour, 0.0) + link @ (link @ pivot).T

    def solve(self, rhs_nK: Floats) -> Floats:
        """The inverse applied to columns."""
        solution = rhs_nK[self.blocks.order]
        rows = self.blocks.rows
        for block, neighbour in self.steps:
            solution[rows(block)] = self.pivots[block] @ solution[rows(block)]
            solution[rows(neighbour)] -= self.links[block] @ solution[rows(block)]
        solution[rows(self.root)] = self.pivots[self.root] @ solution[rows(self.root)]
        for block, neighbour in reversed(self.steps):
            from_neighbour = self.links[block].T @ solution[rows(neighbour)]
            solution[rows(block)] -= self.pivots[block] @ from_neighbour
        result = np.empty_like(solution)
        result[self.blocks.order] = solution
        return result

    def inverse_diagonal(self) -> Any:
        """The diagonal of the inverse, without the rest of it (Takahashi et al. 1973).

        With S_k the Schur complement of block k, L_k its link to its neighbour m, and Σ the
        inverse's blocks: Σ_kk = S_k⁻¹ + S_k⁻¹ L_kᵀ Σ_mm L_k S_k⁻¹.
        """
        inner = {neighbour for _, neighbour in self.steps}
        inverse = {self.root: self.pivots[self.root]}
        diagonal = {self.root: self.pivots[self.root].diagonal()}
        for block, neighbour in reversed(self.steps):
            pivot, link = self.pivots[block], self.links[block]
            change = pivot @ (link.T @ (link.T @ inverse[neighbour]).T)
            if block in inner:  # the next block needs all of it
                inverse[block] = pivot + change @ pivot
                diagonal[block] = inverse[block].diagonal()
            else:
                diagonal[block] = pivot.diagonal() + (change * pivot).sum(axis=1)
            if neighbour != self.root:
                del inverse[neighbour]
        in_order = np.concatenate([diagonal[block] for block in range(len(diagonal))])
        result = np.empty_like(in_order)
        result[self.blocks.order] = in_order
        return result


def symmetric_inverse(matrix_nn: Any) -> Any:
    """The inverse of a positive definite matrix, or of a complex one with such a real half."""
    if np.iscomplexobj(matrix_nn):
        return np.linalg.inv(matrix_nn)
    from scipy.linalg.lapack import dpotrf, dpotri

    factor_nn, failed = dpotrf(matrix_nn, lower=True, overwrite_a=True)
    if failed:
        raise Singular
    inverse_nn, _ = dpotri(factor_nn, lower=True, overwrite_c=True)
    upper = np.triu_indices(len(inverse_nn), 1)
    inverse_nn[upper] = inverse_nn.T[upper]
    return inverse_nn


def anchored(strengths_nn: Any) -> tuple[Any, int, float]:
    """A + w·e_r·e_rᵀ, r and w: a weight on the strength of the most compared item r.

    A does not see the common level of the strengths, or sees it only through the prior; with the
    weight the matrix is well conditioned either way.
    """
    diagonal = strengths_nn.diagonal().real
    item = int(diagonal.argmax())
    weight = float(diagonal[item])
    corner = scipy_sparse().coo_matrix(([weight], ([item], [item])), shape=strengths_nn.shape)
    return (strengths_nn + corner).tocsr(), item, weight


def exact_variances(
    information_PP: Any, scatter_PP: Any | None, size: int, level: float, solve: Solve
) -> Floats:
    """The diagonal of H⁻¹ on strengths that sum to zero, or with a scatter G that of H⁻¹ G H⁻¹.

    ``Elimination`` inverts the strengths' block A with an anchor, as A_w = A + w·e_r·e_rᵀ. Taking
    the anchor away and centring turns its diagonal into that of A's centred inverse C, with
    x = C e_r and the information nλ on the common level (Sherman & Morrison 1950):

        C_ii = (A_w⁻¹)_ii + (nλ·w·x_i² + 2w·x_i − 1 − w·x_r) / (nλ·(1 + w·x_r) + w).

    The home effect and the tie parameter add what strengths share with them: X_s X_e⁻¹ X_sᵀ, from
    their columns X of H⁻¹. For the sandwich, −d/dε (H + εG)⁻¹ = H⁻¹ G H⁻¹, and the derivative of an
    analytic function is its imaginary half at a small imaginary ε (Squire & Trapp 1998), exact to
    the last digits because nothing is subtracted.
    """
    anchored_nn, item, weight = anchored(information_PP[:size, :size])
    columns = np.zeros((information_PP.shape[0], 1 + information_PP.shape[0] - size))
    columns[item, 0] = 1.0
    columns[size:, 1:] = np.eye(columns.shape[1] - 1)
    columns = solve(columns)
    if scatter_PP is not None:
        anchored_nn = anchored_nn + 1j * STEP * scatter_PP[:size, :size]
        columns = columns - 1j * STEP * solve(scatter_PP @ columns)
    beside, corner = columns[:size, 1:], columns[size:, 1:]
    shared = beside @ np.linalg.inv(corner)
    x = columns[:size, 0] - shared @ beside[item]
    common = size * level
    change = common * weight * x * x + 2 * weight * x - 1 - weight * x[item]
    change = change / (common * (1 + weight * x[item]) + weight)
    diagonal = Elimination(anchored_nn, Blocks.of(anchored_nn)).inverse_diagonal()
    strengths = diagonal + change + (shared * beside).sum(axis=1)
    variances = np.concatenate([strengths, corner.diagonal()])
    return variances if scatter_PP is None else -variances.imag / STEP
