"""What a pair's errors are taken over, and which way they point."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdpo.losses.safeguard import Residuals


def cell_weights(masks: list[Tensor], grid: tuple[int, ...]) -> Tensor:
    """The weights of the cells of a latent grid, ``(N, h, w)``, from masks ``(H, W)`` in [0, 1].

    A cell has the mean of the mask over its pixels, divided by the mean over all cells: a mean of
    weighted errors over the grid is then the weighted mean, and an all-white mask weighs all by 1.
    """
    # Where the grid divides the mask, pooling to it is the mean over each cell's pixels.
    height, width = grid
    share = F.adaptive_avg_pool2d(torch.stack(masks)[:, None], (height, width))[:, 0]
    return share / share.mean(dim=(1, 2), keepdim=True)


def weighed(residual: Tensor, cells_NHW: Tensor | None) -> tuple[Tensor, Tensor]:
    """The squared errors of ``residual`` (N, C, ..., h, w), weighed by cell, and half their
    gradient."""
    if cells_NHW is None:
        return residual.square(), residual
    between = (1,) * (residual.dim() - 3)  # channels, and frames of a video
    weight = cells_NHW.view(len(cells_NHW), *between, *cells_NHW.shape[1:])
    return weight * residual.square(), weight * residual


@torch.no_grad()
def products(pull: Tensor, weight_N: Tensor | None = None, draws: int = 1) -> Residuals:
    """‖r_w‖² and ⟨r_w, r_l⟩ of every pair, summed over its ``draws``.

    ``pull`` is (items × draws, ...) of any rank, winners first. Times the weight of its error it is
    the gradient of each row's error with respect to its prediction, up to one factor for all.
    """
    winner, loser = pull.flatten(1).chunk(2)
    norm, cross = winner.square().sum(dim=1), (winner * loser).sum(dim=1)
    if weight_N is not None:  # the two items of a pair share it
        squared = weight_N.chunk(2)[0].square()
        norm, cross = squared * norm, squared * cross
    return Residuals(norm.view(-1, draws).sum(dim=1), cross.view(-1, draws).sum(dim=1))
