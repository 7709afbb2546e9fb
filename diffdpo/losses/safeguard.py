"""The winner's safeguard: the loser's gradient is scaled so that the winner's error does not rise.

Diffusion-SDPO (arXiv 2511.03317), here for every pair; in its code for every micro-batch. Let A and
B be the squared errors of winner and loser, and let a loss of the margin push A down as hard as B
up. A small step of gradient descent moves the predictions along −∇A and λ∇B, so that to first
order, where both pictures meet one (t, ε) and the network moves both predictions alike,

    dA ∝ −‖∇A‖² + λ⟨∇A, ∇B⟩

The winner's error falls by at least the share μ of what it would fall without the loser, dA ≤
−μ‖∇A‖², exactly where λ⟨∇A, ∇B⟩ ≤ (1 − μ)‖∇A‖². With ∇A ∝ r_w and ∇B ∝ r_l, the residuals:

    λ = min(1, (1 − μ)‖r_w‖² / ⟨r_w, r_l⟩) where ⟨r_w, r_l⟩ > 0, and 1 elsewhere

because pushing the loser away along r_l does not bring the winner's error up where the two point
apart. μ = 1 leaves nothing of the loser wherever it could harm, μ = 0 lets the winner's error
stand still. The condition is exact in the space of predictions; in that of weights it is an
approximation. A loss that does not pull at both sides alike (``nca_pair``) has another balance than
the one assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffdpo.errors import UserError


@dataclass(frozen=True)
class Residuals:
    """‖r_w‖² and ⟨r_w, r_l⟩ of every pair, ``(B,)`` each, without gradient.

    r is the gradient of an item's error with respect to its prediction, up to a factor that winner
    and loser share.
    """

    winner_B: Tensor
    cross_B: Tensor


def loser_scale(residuals: Residuals | None, mu: float) -> Tensor:
    """λ of every pair, ``(B,)`` in [0, 1], without gradient.

    Raises UserError where items have no residuals, as texts have none.
    """
    if residuals is None:
        raise UserError("--winner_safeguard: scores of this kind have no residuals; leave it out")
    allowed_B = (1 - mu) * residuals.winner_B
    harms_B = residuals.cross_B > allowed_B
    return torch.where(harms_B, allowed_B / residuals.cross_B.where(harms_B, 1.0), 1.0)


def with_loser_scaled(value_N: Tensor, lambda_B: Tensor) -> Tensor:
    """The same values, chosen first; the gradient of the rejected ones is λ times what it was."""
    chosen_B, rejected_B = value_N.chunk(2)
    # In this form the value stays the same to the last bit: what is added is exactly zero.
    held_B = rejected_B.detach() + lambda_B * (rejected_B - rejected_B.detach())
    return torch.cat([chosen_B, held_B])
