"""The Bradley–Terry core: what a difference of rewards says about which item is preferred.

Shapes: ``B`` pairs, ``N`` items. Rewards are in nats, higher is better.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor | float) -> Tensor:
    """``x`` as a float tensor of at least single precision."""
    # A margin is a small difference of large scores, and bfloat16 keeps 8 bits: near 100 its
    # numbers lie 0.5 apart, while margins of 1e-4 count.
    tensor = torch.as_tensor(x)
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def preference_probability(reward_i: Tensor | float, reward_j: Tensor | float) -> Tensor:
    """P(i ≻ j) = σ(r_i − r_j), broadcasting (Bradley & Terry 1952; Rafailov et al. 2023, eq. 1).

    The logistic form of π_i / (π_i + π_j) with worths π = exp(r). Works in float32 at least.
    """
    return torch.sigmoid(at_least_float32(reward_i) - at_least_float32(reward_j))


def preference_log_likelihood(margin: Tensor | float, outcome: Tensor | float = 1.0) -> Tensor:
    """Log-likelihood in nats of ``outcome`` at the given reward margin r_i − r_j, broadcasting.

    ``outcome`` is 1 where i was preferred, 0 where j was, and anything between for a soft label (a
    tie: 1/2). Finite for every finite margin: −17 log-odds and −17,000 alike.
    """
    margin = at_least_float32(margin)
    # Two log-sigmoids, not log σ and log(1 − σ): in float32 σ(17) is 1, and log(1 − 1) is −∞.
    if isinstance(outcome, float | int):  # filled in on the device, which nobody waits for
        outcome = margin.new_full((), outcome)
    outcome = torch.as_tensor(outcome, dtype=margin.dtype, device=margin.device)
    return outcome * F.logsigmoid(margin) + (1 - outcome) * F.logsigmoid(-margin)


def implicit_reward(policy_N: Tensor, reference_N: Tensor | float) -> Tensor:
    """Policy score minus reference score: the reward of Rafailov et al. 2023, eq. 5, without beta.

    The term β log Z(x) is left out: it depends on the prompt alone and cancels in every margin.
    """
    return at_least_float32(policy_N) - reference_N


def accuracy(margin_B: Tensor) -> Tensor:
    """1 where the margin is positive, 0 where it is negative, 1/2 where it is zero; ``(B,)``."""
    # 1/2, because before the first step every margin is exactly zero: neither right nor wrong.
    return (margin_B.sign().float() + 1) / 2


def summary(
    chosen_B: Tensor, rejected_B: Tensor, outcome_B: Tensor | None = None
) -> dict[str, Tensor]:
    """Batch means of the rewards, their accuracy and their margin, under the metric names of TRL.

    A pair whose ``outcome_B``, P(chosen ≻ rejected), is 1/2 is a tie and counts as half right. The
    means stay on the device; reading them would make a GPU wait.
    """
    margin_B = chosen_B - rejected_B
    right_B = accuracy(margin_B)
    if outcome_B is not None:
        right_B = torch.where(outcome_B == 0.5, 0.5, right_B)
    return {
        "rewards/chosen": chosen_B.mean(),
        "rewards/rejected": rejected_B.mean(),
        "rewards/accuracies": right_B.mean(),
        "rewards/margins": margin_B.mean(),
    }


def log_odds(log_probability: Tensor) -> Tensor:
    """log(p / (1 − p)) of a log-probability ≤ 0, with finite value and gradient up to and at p =
    1."""
    logp = log_probability.clamp(max=-torch.finfo(log_probability.dtype).eps)
    near_one = logp > -math.log(2)
    # Near p = 1 the first form keeps its digits, far from it the second (Mächler 2012). Each branch
    # sees only inputs it is stable on: a where() alone lets NaN gradients of the other one through.
    upper = torch.log(-torch.expm1(torch.where(near_one, logp, -0.5)))
    lower = torch.log1p(-torch.exp(torch.where(near_one, -1.0, logp)))
    return logp - torch.where(near_one, upper, lower)
