"""Losses of single items, each with its label: desirable or not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdpo.preference import at_least_float32


def kto_loss(
    reward_N: Tensor,
    desirable_N: Tensor,
    kl: Tensor | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """λ_D (1 − σ(β(r − z))) where desirable, λ_U (1 − σ(β(z − r))) elsewhere (Ethayarajh et al.
    2024, eq. 8).

    ``kl`` is the reference point z ≥ 0 in the units of the rewards, without gradient. Diffusion-KTO
    (Li et al. 2024) is the same on image rewards.
    """
    desirable_N = desirable_N.bool()
    gain_N = beta * (at_least_float32(reward_N) - kl)
    good_N = desirable_weight * torch.sigmoid(-gain_N)
    bad_N = undesirable_weight * torch.sigmoid(gain_N)
    return torch.where(desirable_N, good_N, bad_N)


def apo_zero_unpaired_loss(
    reward_N: Tensor,
    desirable_N: Tensor,
    kl: Tensor | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO with the reference point at zero: APO-zero on single items (D'Oosterlinck et al.
    2024)."""
    weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
    return kto_loss(reward_N, desirable_N, 0.0, beta=beta, **weights)


def bco_loss(
    reward_N: Tensor,
    desirable_N: Tensor,
    kl: Tensor | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """−λ_D log σ(β(r − δ)) where desirable, −λ_U log σ(−β(r − δ)) elsewhere (Jung et al. 2024,
    BCO).

    ``kl`` is δ, the mean reward of the run so far, without gradient.
    """
    gain_N = beta * (at_least_float32(reward_N) - kl)
    good_N = -desirable_weight * F.logsigmoid(gain_N)
    bad_N = -undesirable_weight * F.logsigmoid(-gain_N)
    return torch.where(desirable_N.bool(), good_N, bad_N)
