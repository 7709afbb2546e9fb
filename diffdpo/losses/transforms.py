"""Transforms of log-probabilities and their ratios into the rewards that a loss compares."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# The largest exponent: exp(80) is a float32 number, and so is its product with a beta.
LARGEST = 80.0


def power_reward(value: Tensor, power: float) -> Tensor:
    """(exp(k v) − 1) / k, which is v itself as the power k goes to 0.

    Beyond k v = 80 it stays at its value there, without gradient, as in TRL.
    """
    if abs(power) < 1e-6:
        return value
    return torch.expm1((power * value).clamp(max=LARGEST)) / power


def js_reward(ratio: Tensor, alpha: float) -> Tensor:
    """log 2 + log σ(log t): of the Jensen–Shannon divergence; never above log 2."""
    return math.log(2) + F.logsigmoid(ratio)


# f′(t) of every divergence D_f(policy ‖ reference), as a function of the log-ratio log t of policy
# and reference and of α (Wang et al. 2023, f-DPO, table 1). Their reward is β f′(t) up to a term of
# the prompt alone, which cancels between the two items of a pair. DPO's own is the reverse KL.
DIVERGENCES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "reverse_kl": lambda ratio, alpha: ratio,
    "forward_kl": lambda ratio, alpha: power_reward(ratio, -1.0),
    "js_divergence": js_reward,
    "alpha_divergence": lambda ratio, alpha: power_reward(ratio, alpha - 1.0),
}
