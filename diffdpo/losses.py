"""ADD A LOSS HERE: one pure function, one row in ``LOSSES`` at the bottom; the tests find it by
themselves.

A loss maps the rewards of ``B`` pairs (policy score − reference score, before beta, higher is
better) to ``B`` un-reduced losses in float32 at least. Below, x and y are the chosen and the
rejected reward and Δ = x − y. A reference-free loss reads the policy's score itself: its reference
score is zero.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdpo.loss_row import Loss as Loss
from diffdpo.loss_row import as_loss as as_loss
from diffdpo.preference import at_least_float32, log_odds, preference_log_likelihood

MAPO_STEPS = 1000  # the timesteps of a diffusion model, in the published code the scheduler's


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


def sigmoid_norm_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """−log σ(βΔ) on means over tokens: length-normalised DPO (Lambert et al. 2024, Tülu 3)."""
    return sigmoid_loss(chosen_B, rejected_B, beta=beta)


def simpo_loss(
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    beta: float,
    simpo_gamma: float = 0.5,
    label_smoothing: float = 0.0,
) -> Tensor:
    """−log σ(βΔ − γ) on mean log-probabilities, no reference (Meng et al. 2024, eq. 6)."""
    return -preference_log_likelihood(
        beta * (chosen_B - rejected_B) - simpo_gamma, 1 - label_smoothing
    )


def sft_loss(chosen_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """−x: likelihood of the chosen item alone, the supervised baseline.

    Beta and the rejected item have no influence.
    """
    # Times 0, not left out: both arguments then have a gradient, as under every other loss.
    return -chosen_B + 0 * rejected_B


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


LOSSES = {
    "sigmoid": Loss(sigmoid_loss),
    "ipo": Loss(ipo_loss, mean_tokens=True),
    "hinge": Loss(hinge_loss),
    "robust": Loss(robust_loss),
    "exo_pair": Loss(exo_pair_loss),
    "nca_pair": Loss(nca_pair_loss),
    "apo_zero": Loss(apo_zero_loss),
    "apo_down": Loss(apo_down_loss),
    "sppo_hard": Loss(sppo_hard_loss),
    "bco_pair": Loss(bco_pair_loss),
    "dpop": Loss(dpop_loss),
    "linear": Loss(linear_loss),
    "capo": Loss(capo_loss, only="images"),
    "mapo": Loss(mapo_loss, reference_free=True, only="images"),
    "sigmoid_norm": Loss(sigmoid_norm_loss, mean_tokens=True, only="text"),
    "simpo": Loss(simpo_loss, reference_free=True, mean_tokens=True, only="text"),
    "orpo": Loss(orpo_loss, reference_free=True, mean_tokens=True, only="text"),
    "sft": Loss(sft_loss, reference_free=True, mean_tokens=True, mean_of_batch=True),
    "kto": Loss(kto_loss, paired=False, needs_kl=True),
    "apo_zero_unpaired": Loss(apo_zero_unpaired_loss, paired=False),
}


def preference_loss(
    name: str,
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    beta: float,
    label_smoothing: float | None = None,
    kl: Tensor | float = 0.0,
    nll_B: Tensor | None = None,
    gap_B: Tensor | None = None,
    **options: float,
) -> Tensor:
    """Loss per pair, shape ``(B,)``, float32 at least, of the row ``name`` of ``LOSSES``.

    ``chosen_B`` and ``rejected_B`` are rewards before beta: policy score − reference score in nats
    (for a reference-free loss the policy score). An unpaired loss counts both items of a pair and
    returns their mean. ``label_smoothing`` None means the loss's own default. 0 is
    taken by losses without smoothing too, but not by exo_pair, whose divergence is infinite there.

    Raises ValueError for an unknown name, a beta that is not positive, a missing gap, and a setting
    that the loss does not read or not take.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    row = LOSSES[name]
    if label_smoothing is not None and (label_smoothing != 0 or "label_smoothing" in row.options):
        options["label_smoothing"] = label_smoothing
    if unread := set(options) - row.options:
        raise ValueError(f"loss {name!r} does not read {', '.join(sorted(unread))}")
    if row.reads_gap and gap_B is None:
        raise ValueError(f"loss {name!r} needs the gap of every pair, gap_B")
    chosen_B, rejected_B = at_least_float32(chosen_B), at_least_float32(rejected_B)
    if row.paired:
        data = {"nll_B": nll_B} if row.reads_nll else {"gap_B": gap_B} if row.reads_gap else {}
        return row.fn(chosen_B, rejected_B, beta=beta, **data, **options)
    yes_B, no_B = torch.ones_like(chosen_B), torch.zeros_like(rejected_B)
    chosen_loss_B = row.fn(chosen_B, yes_B, kl, beta=beta, **options)
    return (chosen_loss_B + row.fn(rejected_B, no_B, kl, beta=beta, **options)) / 2
