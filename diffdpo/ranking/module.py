"""The same model as a module, for those who train by gradient: a parameter per item."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffdpo.preference import preference_probability
from diffdpo.ranking.ties import TIES


class BradleyTerry(nn.Module):
    """Strengths θ of ``n`` items in nats; the optimum of ``log_likelihood`` is that of
    ``fit_bradley_terry``.

    Only differences matter, so the common level stays where it started. On separable data the gaps
    grow without bound, like the logarithm of the number of steps. ``tie`` is log ν (Davidson) or
    log ϑ (Rao and Kupper).
    """

    def __init__(self, n: int, ties: str = "half", home: bool = False) -> None:
        super().__init__()
        self.ties = TIES[ties]
        self.strength = nn.Parameter(torch.zeros(n, dtype=torch.float64))
        self.home = nn.Parameter(torch.zeros((), dtype=torch.float64), requires_grad=home)
        # Log of 1.1: Rao and Kupper's threshold must start above zero.
        start = torch.tensor(1.1, dtype=torch.float64).log()
        self.tie = nn.Parameter(start, requires_grad=bool(self.ties.symbol))

    def margin(self, first_B: Tensor, second_B: Tensor, order_B: Tensor | float = 0.0) -> Tensor:
        """θ_first − θ_second + home · order; ``order`` is +1 where the first item was shown first,
        −1 the second."""
        return self.strength[first_B] - self.strength[second_B] + self.home * order_B

    def forward(self, first_B: Tensor, second_B: Tensor, order_B: Tensor | float = 0.0) -> Tensor:
        """P(first ≻ second) = σ(margin), ties aside."""
        return preference_probability(self.margin(first_B, second_B, order_B), 0.0)

    def log_likelihood(
        self,
        first_B: Tensor,
        second_B: Tensor,
        outcome_B: Tensor | float = 1.0,
        order_B: Tensor | float = 0.0,
    ) -> Tensor:
        """Nats per comparison; ``outcome`` is the first item's share of the win, 1/2 for a tie."""
        margin_B = self.margin(first_B, second_B, order_B)
        outcome_B = torch.as_tensor(outcome_B, dtype=margin_B.dtype).expand_as(margin_B)
        return self.ties.log_likelihood(margin_B, outcome_B, self.tie)

    def centred(self) -> Tensor:
        """Strengths with mean zero."""
        return (self.strength - self.strength.mean()).detach()
