"""The likelihood of all comparisons, its gradient and its curvature, as a function of one vector of
parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffdpo.ranking.cells import Cells, Floats, summed
from diffdpo.ranking.elimination import DENSE_LIMIT, scipy_sparse
from diffdpo.ranking.jet import Jet
from diffdpo.ranking.ties import TIES


@dataclass(frozen=True)
class Slopes:
    """Derivatives of one comparison's log-likelihood with respect to its margin d and the tie
    parameter t."""

    value: float  # the whole penalised log-likelihood, where these were taken
    d_C: Floats
    t_C: Floats
    dd_C: Floats
    dt_C: Floats
    tt_C: Floats


@dataclass(frozen=True)
class Likelihood:
    """Σ count · weight · log P(outcome), minus Σθ²/(2·prior_std²); the free parameters are
    (θ_1…θ_n, home?, tie?)."""

    cells: Cells
    size: int
    ties: str = "half"
    home: bool = False
    prior_std: float | None = None
    dense_limit: int = DENSE_LIMIT

    @property
    def extras(self) -> list[str]:
        """The parameters that follow the strengths."""
        return ["home"] * self.home + ["tie"] * bool(TIES[self.ties].symbol)

    @property
    def level(self) -> float:
        """Precision of the prior on each strength."""
        return self.prior_std**-2 if self.prior_std else 0.0

    def counted(self, count_C: Floats) -> Likelihood:
        """The same comparisons made ``count_C`` times."""
        seen = count_C > 0
        return replace(self, cells=replace(self.cells, count=count_C).where(seen))

    def start(self) -> Floats:
        """Equal items, no home effect, and the share of ties that was seen."""
        x_P = np.zeros(self.size + len(self.extras))
        if "tie" in self.extras:
            total = self.cells.count * self.cells.weight
            x_P[-1] = TIES[self.ties].start(
                float(total[self.cells.outcome == 0.5].sum() / total.sum())
            )
        return x_P

    def value(self, x_P: Floats) -> float:
        """The penalised log-likelihood in nats."""
        return self.slopes(x_P).value

    def slopes(self, x_P: Floats) -> Slopes:
        """The value, and the first and second derivatives of each cell."""
        cells = self.cells
        margin_C = x_P[cells.first] - x_P[cells.second]
        if self.home:
            margin_C = margin_C + x_P[self.size] * cells.order
        margin, tie = Jet.variables(margin_C, x_P[-1] if "tie" in self.extras else 0.0)
        each = TIES[self.ties].log_likelihood(margin, cells.outcome, tie)
        value_C, d_C, t_C, dd_C, dt_C, tt_C = each.terms_6C
        penalty = self.level / 2 * float(x_P[: self.size] @ x_P[: self.size])
        value = float(cells.count * cells.weight @ value_C) - penalty
        return Slopes(value, d_C, t_C, dd_C, dt_C, tt_C)

    def gradient(self, slopes: Slopes, x_P: Floats) -> Floats:
        """The first derivatives by the parameters, the prior included: (P,)."""
        cells = self.cells
        total_C = cells.count * cells.weight
        gradient_P = self._onto(total_C * slopes.d_C, total_C * slopes.t_C)
        gradient_P[: self.size] -= self.level * x_P[: self.size]
        return gradient_P

    def information(self, slopes: Slopes) -> Any:
        """Minus the Hessian, the prior included: (P, P), an array or a sparse matrix."""
        total_C = -self.cells.count * self.cells.weight
        matrix_PP = self._quadratic(
            total_C * slopes.dd_C, total_C * slopes.dt_C, total_C * slopes.tt_C
        )
        prior_P = np.repeat([self.level, 0.0], [self.size, len(self.extras)])
        if isinstance(matrix_PP, np.ndarray):
            return matrix_PP + np.diag(prior_P)
        return (matrix_PP + scipy_sparse().diags(prior_P)).tocsr()

    def scatter(self, slopes: Slopes) -> Any:
        """Σ over comparisons of score · scoreᵀ: a soft label or a weighted comparison is one
        observation."""
        total_C = self.cells.count * self.cells.weight**2
        d_C, t_C = slopes.d_C, slopes.t_C
        return self._quadratic(total_C * d_C * d_C, total_C * d_C * t_C, total_C * t_C * t_C)

    def noise(self, slopes: Slopes, kind: str, draws: np.random.Generator, samples: int) -> Floats:
        """(P, samples): normal, with the information (``kind`` "fisher") or the scatter
        ("sandwich") as covariance.

        Either is a sum over cells of Zᵀ R Rᵀ Z with R = [[a, 0], [b, c]]: one score, or the lower
        triangle of the cell's information on (margin, tie).
        """
        count_C, weight_C = self.cells.count, self.cells.weight
        if kind == "sandwich":
            root_C = np.sqrt(count_C) * weight_C
            a_C, b_C, c_C = root_C * slopes.d_C, root_C * slopes.t_C, 0.0 * root_C
        else:
            dd_C, dt_C, tt_C = (
                -count_C * weight_C * x for x in (slopes.dd_C, slopes.dt_C, slopes.tt_C)
            )
            a_C = np.sqrt(dd_C)
            b_C = np.divide(dt_C, a_C, out=np.zeros_like(a_C), where=a_C > 0)
            c_C = np.sqrt(np.maximum(tt_C - b_C**2, 0.0))
        columns = []
        for _ in range(samples):
            first_C, second_C = draws.standard_normal((2, len(count_C)))
            columns.append(self._onto(a_C * first_C, b_C * first_C + c_C * second_C))
        noise_PS = np.stack(columns, axis=1)
        if kind == "fisher":
            prior_nS = draws.standard_normal((self.size, samples))
            noise_PS[: self.size] += np.sqrt(self.level) * prior_nS
        return noise_PS

    def _onto(self, d_C: Floats, t_C: Floats) -> Floats:
        """Σ d · ∂margin/∂x + t · ∂tie/∂x."""
        cells, n = self.cells, self.size
        strengths = summed(cells.first, d_C, n) - summed(cells.second, d_C, n)
        extras = {"home": d_C @ cells.order, "tie": t_C.sum()}
        return np.concatenate([strengths, [extras[name] for name in self.extras]])

    def _quadratic(self, dd_C: Floats, dt_C: Floats, tt_C: Floats) -> Any:
        """Σ Zᵀ [[dd, dt], [dt, tt]] Z with Z = ∂(margin, tie)/∂x; its block of the strengths is a
        graph's Laplacian."""
        cells, n = self.cells, self.size
        border = {
            "home": self._onto(dd_C * cells.order, dt_C * cells.order),
            "tie": self._onto(dt_C, tt_C),
        }
        beside_EP = np.array([border[name] for name in self.extras]).reshape(
            -1, n + len(self.extras)
        )
        diagonal = summed(cells.first, dd_C, n) + summed(cells.second, dd_C, n)
        if n > self.dense_limit:
            sparse = scipy_sparse()
            half = sparse.coo_matrix((dd_C, (cells.first, cells.second)), shape=(n, n))
            laplacian = sparse.diags(diagonal) - half - half.T
            if not len(beside_EP):
                return laplacian.tocsr()
            return sparse.bmat(
                [[laplacian, beside_EP[:, :n].T], [beside_EP[:, :n], beside_EP[:, n:]]]
            ).tocsr()
        half_nn = summed(cells.first * n + cells.second, dd_C, n * n).reshape(n, n)
        laplacian_nn = np.diag(diagonal) - half_nn - half_nn.T
        return np.block([[laplacian_nn, beside_EP[:, :n].T], [beside_EP[:, :n], beside_EP[:, n:]]])
