"""Losses of pairs, of their rewards: x and y are the chosen and the rejected one, Δ = x − y."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdpo.preference import preference_log_likelihood


def sigmoid_loss(
    chosen_B: Tensor, rejected_B: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """−(1−ε) log σ(βΔ) − ε log σ(−βΔ): DPO (Rafailov 2023, eq. 7), ε > 0: cDPO (Mitchell 2023)."""
    return -preference_log_likelihood(beta * (chosen_B - rejected_B), 1 - label_smoothing)


def robust_loss(
    chosen_B: Tensor, rejected_B: Tensor, *, beta: float, label_smoothing: float = 0.1
) -> Tensor:
    """[−(1−ε) log σ(βΔ) + ε log σ(−βΔ)] / (1−2ε): unbiased under labels flipped at rate ε
    (Chowdhury et al. 2024).

    Unbounded below, so its value alone says nothing of convergence. Raises ValueError unless 0 ≤ ε
    < 1/2.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"robust: label_smoothing must lie in [0, 0.5), got {label_smoothing}")
    margin_B = beta * (chosen_B - rejected_B)
    keep_B, flip_B = F.logsigmoid(margin_B), F.logsigmoid(-margin_B)
    return (-(1 - label_smoothing) * keep_B + label_smoothing * flip_B) / (1 - 2 * label_smoothing)


def hinge_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """max(0, 1 − βΔ) (SLiC, Zhao et al. 2023; RSO, Liu et al. 2023)."""
    return F.relu(1 - beta * (chosen_B - rejected_B))


def ipo_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """(Δ − 1/(2β))² (Azar et al. 2023, eq. 17); on text the rewards are means over tokens, as in
    TRL."""
    return (chosen_B - rejected_B - 1 / (2 * beta)).square()


def exo_pair_loss(
    chosen_B: Tensor, rejected_B: Tensor, *, beta: float, label_smoothing: float = 1e-3
) -> Tensor:
    """KL(Bern(σ(βΔ)) ‖ Bern(1−ε)) (Ji et al. 2024, eq. 16). Raises ValueError unless 0 < ε < 1."""
    if not 0 < label_smoothing < 1:
        raise ValueError(f"exo_pair: label_smoothing must lie in (0, 1), got {label_smoothing}")
    margin_B = beta * (chosen_B - rejected_B)
    win_B, lose_B = F.logsigmoid(margin_B), F.logsigmoid(-margin_B)
    # σ as the exponential of log σ: a logarithm of σ itself is −∞ where σ underflows.
    toward_win = win_B.exp() * (win_B - math.log1p(-label_smoothing))
    return toward_win + lose_B.exp() * (lose_B - math.log(label_smoothing))


def nca_pair_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """−log σ(βx) − ½ log σ(−βx) − ½ log σ(−βy) (Chen et al. 2024, NCA)."""
    x, y = beta * chosen_B, beta * rejected_B
    return -F.logsigmoid(x) - 0.5 * F.logsigmoid(-x) - 0.5 * F.logsigmoid(-y)


def apo_zero_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """1 − σ(βx) + σ(βy): raise the chosen, lower the rejected (D'Oosterlinck 2024, eq. 7)."""
    return torch.sigmoid(-beta * chosen_B) + torch.sigmoid(beta * rejected_B)


def apo_down_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """σ(βx) + 1 − σ(βΔ): lower both, the rejected more (D'Oosterlinck et al. 2024, eq. 8)."""
    return torch.sigmoid(beta * chosen_B) + torch.sigmoid(-beta * (chosen_B - rejected_B))


def sppo_hard_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """(x − 1/(2β))² + (y + 1/(2β))² (Wu et al. 2024, SPPO with hard labels)."""
    return (chosen_B - 0.5 / beta).square() + (rejected_B + 0.5 / beta).square()


def dpop_loss(
    chosen_B: Tensor, rejected_B: Tensor, *, beta: float, dpop_lambda: float = 50.0
) -> Tensor:
    """−log σ(β(Δ − λ max(0, −x))): charges for a chosen item made less likely (Pal 2024, eq. 3)."""
    return -F.logsigmoid(beta * (chosen_B - rejected_B - dpop_lambda * F.relu(-chosen_B)))


def bco_pair_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """−log σ(βx) − log σ(−βy): two classifiers (Jung 2024, BCO without its running baseline)."""
    return -F.logsigmoid(beta * chosen_B) - F.logsigmoid(-beta * rejected_B)


def bco_pair_mean_loss(
    chosen_B: Tensor, rejected_B: Tensor, *, beta: float, baseline: Tensor | float = 0.0
) -> Tensor:
    """−log σ(β(x − δ)) − log σ(−β(y − δ)), δ the mean reward of the run so far (Jung et al. 2024,
    BCO)."""
    return bco_pair_loss(chosen_B - baseline, rejected_B - baseline, beta=beta)


def aot_loss(
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    beta: float,
    reference_margin_B: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """DPO of sorted margins: the k-th smallest of the policy against the k-th smallest of the
    reference (Melnyk et al. 2024, AOT on paired data).

    One loss for each rank, not for each pair.
    """
    margin_B = chosen_B - rejected_B + reference_margin_B
    own_B, frozen_B = margin_B.sort().values, reference_margin_B.sort().values
    return sigmoid_loss(own_B, frozen_B, beta=beta, label_smoothing=label_smoothing)


def aot_unpaired_loss(
    chosen_B: Tensor, rejected_B: Tensor, *, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """DPO of sorted rewards: the k-th smallest of the chosen items against the k-th smallest of the
    rejected ones (Melnyk et al. 2024, AOT on unpaired data)."""
    chosen_B, rejected_B = chosen_B.sort().values, rejected_B.sort().values
    return sigmoid_loss(chosen_B, rejected_B, beta=beta, label_smoothing=label_smoothing)


def sigmoid_norm_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """−log σ(βΔ) on means over tokens: length-normalised DPO (Lambert et al. 2024, Tülu 3)."""
    return sigmoid_loss(chosen_B, rejected_B, beta=beta)


def discopop_loss(
    chosen_B: Tensor, rejected_B: Tensor, *, beta: float, discopop_tau: float = 0.05
) -> Tensor:
    """−log σ(m) (1 − σ(m/τ)) + exp(−m) σ(m/τ), m = βΔ (DiscoPOP, Lu et al. 2024, eq. 5).

    Not convex: around m = 0 it rises with the margin, which its authors found and kept. Raises
    ValueError unless 0 < τ ≤ 1: above 1 it grows as fast as exp(−m) itself.
    """
    if not 0 < discopop_tau <= 1:
        raise ValueError(f"discopop: discopop_tau must lie in (0, 1], got {discopop_tau}")
    margin_B = beta * (chosen_B - rejected_B)
    ratio_B = margin_B / discopop_tau
    # One exponential of the sum: exp(−m) alone overflows where its factor vanishes.
    exponential_B = torch.exp(F.logsigmoid(ratio_B) - margin_B)
    return exponential_B - F.logsigmoid(margin_B) * torch.sigmoid(-ratio_B)


def linear_loss(
    chosen_B: Tensor, rejected_B: Tensor, *, beta: float, linear_eta: float = 0.01
) -> Tensor:
    """The loss whose slope in the margin m = βΔ is −clip(1/2 − 0.4 m, η, 1 − η) (Linear-DPO, arXiv
    2605.21123, and its code).

    Published is a stop-gradient of the clip times −Δ; this is its integral, zero at m = 0: the same
    gradient but for the factor β, and a value that falls where the margin improves. DPO's slope,
    −σ(−m), is the same at 0 and vanishes for large margins. Raises ValueError unless 0 ≤ η < 1/2.
    """
    if not 0 <= linear_eta < 0.5:
        raise ValueError(f"linear: linear_eta must lie in [0, 0.5), got {linear_eta}")
    margin_B, edge = beta * (chosen_B - rejected_B), (0.5 - linear_eta) / 0.4
    inside_B = margin_B.clamp(-edge, edge)
    slope_B = (0.5 - 0.4 * inside_B).detach()
    return 0.2 * inside_B.square() - 0.5 * inside_B - slope_B * (margin_B - inside_B)


def capo_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float, gap_B: Tensor) -> Tensor:
    """(βΔ − g)², g the gap of a pair's rewards (CaPO, arXiv 2502.02588; PRDP, 2402.08714)."""
    return (beta * (chosen_B - rejected_B) - gap_B).square()
