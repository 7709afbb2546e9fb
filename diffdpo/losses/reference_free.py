"""Losses of pairs without a reference: what they read is the policy's score itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdpo.losses.pairs import hinge_loss, ipo_loss, sigmoid_loss
from diffdpo.losses.transforms import power_reward
from diffdpo.preference import at_least_float32, log_odds, preference_log_likelihood

MAPO_STEPS = 1000  # the timesteps of a diffusion model, in the published code the scheduler's


def simpo_loss(
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    beta: float,
    simpo_gamma: float = 0.5,
    label_smoothing: float = 0.0,
    alpha: float = 0.0,
) -> Tensor:
    """−log σ(βΔ − γ) on mean log-probabilities, no reference (Meng et al. 2024, eq. 6).

    ``alpha`` is AlphaPO's: 0 leaves the log-probabilities as they are.
    """
    margin_B = power_reward(chosen_B, -alpha) - power_reward(rejected_B, -alpha)
    return -preference_log_likelihood(beta * margin_B - simpo_gamma, 1 - label_smoothing)


def alphapo_loss(
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    beta: float,
    simpo_gamma: float = 0.5,
    label_smoothing: float = 0.0,
    alpha: float = 0.25,
) -> Tensor:
    """SimPO on rewards (1 − p^−α) / α of the mean log-probability log p (AlphaPO, Gupta et al.
    2025)."""
    options = {"simpo_gamma": simpo_gamma, "label_smoothing": label_smoothing, "alpha": alpha}
    return simpo_loss(chosen_B, rejected_B, beta=beta, **options)


def cpo_loss(
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    alpha: float = 0.0,
) -> Tensor:
    """−log σ(βΔ) on sums of log-probabilities, no reference (Xu et al. 2024, CPO, eq. 3).

    The paper's loss is this and that of the chosen item's likelihood, ``sft``. ``alpha`` is
    AlphaPO's.
    """
    chosen_B, rejected_B = power_reward(chosen_B, -alpha), power_reward(rejected_B, -alpha)
    return sigmoid_loss(chosen_B, rejected_B, beta=beta, label_smoothing=label_smoothing)


def cpo_hinge_loss(
    chosen_B: Tensor, rejected_B: Tensor, *, beta: float, alpha: float = 0.0
) -> Tensor:
    """max(0, 1 − βΔ) on sums of log-probabilities, no reference: SLiC-HF (Zhao et al. 2023)."""
    chosen_B, rejected_B = power_reward(chosen_B, -alpha), power_reward(rejected_B, -alpha)
    return hinge_loss(chosen_B, rejected_B, beta=beta)


def cpo_ipo_loss(
    chosen_B: Tensor, rejected_B: Tensor, *, beta: float, alpha: float = 0.0
) -> Tensor:
    """(Δ − 1/(2β))² on mean log-probabilities, no reference: IPO's loss in CPO's place."""
    chosen_B, rejected_B = power_reward(chosen_B, -alpha), power_reward(rejected_B, -alpha)
    return ipo_loss(chosen_B, rejected_B, beta=beta)


def sft_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """−x: likelihood of the chosen item alone, the supervised baseline.

    Beta and the rejected item have no influence.
    """
    # Times 0, not left out: both arguments then have a gradient, as under every other loss.
    return -chosen_B + 0 * rejected_B


def orpo_loss(
    chosen_mean_logp_B: Tensor,
    rejected_mean_logp_B: Tensor,
    *,
    beta: float,
    nll_B: Tensor | None = None,
) -> Tensor:
    """NLL − β log σ(log odds(chosen) − log odds(rejected)), the whole loss (Hong et al. 2024, eq.
    6–7).

    Takes mean log-probabilities per token. ``nll_B`` replaces the NLL of the chosen completion, say
    by one that covers the prompt as well. Gradients stay finite as a log-probability approaches 0.
    """
    chosen_B = at_least_float32(chosen_mean_logp_B)
    rejected_B = at_least_float32(rejected_mean_logp_B)
    ratio_B = log_odds(chosen_B) - log_odds(rejected_B)
    return (-chosen_B if nll_B is None else nll_B) - beta * F.logsigmoid(ratio_B)


def mapo_loss(
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    beta: float,
    beta_mapo: float = 0.1,
    snr_value: float = 0.5,
) -> Tensor:
    """e_w − β_m log σ(T (φ(e_w) − φ(e_l))), φ(e) = s e / (exp(s e) − 1), on squared errors e = −2 ·
    score, without reference (MaPO, arXiv 2406.06424, and its code).

    T is 1,000. Beta has no influence: what weighs the margin is ``beta_mapo``.
    """
    error_w, error_l = -2 * chosen_B, -2 * rejected_B
    gain_B = MAPO_STEPS * (bose(snr_value * error_w) - bose(snr_value * error_l))
    return error_w - beta_mapo * F.logsigmoid(gain_B)


def bose(x: Tensor) -> Tensor:
    """x / (exp(x) − 1), finite at 0 and far out, its gradient too; as in ``log_odds``."""
    near = x.abs() < 1e-3
    far = torch.where(near, 1.0, x).clamp(max=80)
    return torch.where(near, 1 - x / 2 + x.square() / 12, far / torch.expm1(far))
