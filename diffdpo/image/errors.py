"""What a pair's errors say beyond their size: which way they point."""

from __future__ import annotations

import torch
from torch import Tensor

from diffdpo.safeguard import Residuals


@torch.no_grad()
def products(residual: Tensor, weight_N: Tensor | None = None, draws: int = 1) -> Residuals:
    """‖r_w‖² and ⟨r_w, r_l⟩ of every pair, summed over its ``draws``.

    ``residual`` is (items × draws, ...) of any rank, winners first. Times the weight of its error
    it is the gradient of each row's error with respect to its prediction, up to one factor for all.
    """
    winner, loser = residual.flatten(1).chunk(2)
    norm, cross = winner.square().sum(dim=1), (winner * loser).sum(dim=1)
    if weight_N is not None:  # the two items of a pair share it
        squared = weight_N.chunk(2)[0].square()
        norm, cross = squared * norm, squared * cross
    return Residuals(norm.view(-1, draws).sum(dim=1), cross.view(-1, draws).sum(dim=1))
