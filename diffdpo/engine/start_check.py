"""Checks that policy and reference are the same function before the first step.

Then every reward is 0. If one is not, the reference is wrong and so is every later margin.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import UserError
from diffdpo.reference import Reference, StoredScores

# The relative difference of two computations of a score that rounding may explain: sums are rounded
# otherwise in batches of another shape.
ROUNDING = {"no": 1e-4, "bf16": 2e-2, "fp16": 4e-3}
TF32_ROUNDING = 4e-3
SMALLEST = 1e-3  # nats: scores below it are compared with it, not divided by almost zero


def check_start(
    reference: Reference,
    reward_N: Tensor,
    policy_N: Tensor,
    scale: float,
    settings: TrainSettings,
    notice: Callable[[str], None],
) -> None:
    """Check that policy and reference agree before the first step; ``scale`` is the beta that
    rewards are logged with. Raises UserError where stored scores are of another reference."""
    if isinstance(reference, StoredScores):
        check_stored(reward_N, policy_N, scale, settings, notice)
    else:
        check_live(reward_N, scale, settings.torch_compile, notice)


def check_live(
    reward_N: Tensor, scale: float, compiled: bool, notice: Callable[[str], None]
) -> None:
    """Tell ``notice`` where a reward is not exactly 0; ``scale`` is the beta it is logged with."""
    # One that is no number is no difference of the two: its step is not taken, and told.
    worst = reward_N.abs().nan_to_num(nan=0.0, posinf=0.0).max().item() * scale
    # Exactly, because the same code runs on the same weights. Compiled code is another program with
    # gradient than without, and may round otherwise.
    if worst and compiled:
        notice(
            f"compiled     policy and reference differ by {worst:.3g} nats before the first step:"
            " rounding"
        )
    elif worst:
        notice(
            "WARNING: policy and reference differ before the first step (reward up to"
            f" {worst:.3g} nats)"
        )


def check_stored(
    reward_N: Tensor,
    policy_N: Tensor,
    scale: float,
    settings: TrainSettings,
    notice: Callable[[str], None],
) -> None:
    """Tell ``notice`` how far stored reference scores are from the policy's own scores.

    Raises UserError where it is more than rounding: they belong to another reference.
    """
    # Where the policy's own score is no number, the step is not taken, and told.
    known = policy_N.isfinite()
    if not known.any():
        return
    reward_N, policy_N = reward_N[known], policy_N[known]
    worst = reward_N.abs().max().item() * scale
    notice(
        f"reference    stored and live logits differ by at most {2 * worst:.3g} in the first batch"
    )
    limit = ROUNDING[settings.mixed_precision or "no"]
    if settings.allow_tf32:
        limit = max(limit, TF32_ROUNDING)
    apart = (reward_N.abs() / policy_N.abs().clamp(min=SMALLEST)).max().item()
    if not apart <= limit:  # true of NaN as well
        raise UserError(
            f"--precompute_dir {settings.precompute_dir}: stored reference scores differ from live"
            f" ones by {100 * apart:.2g} %, which is more than rounding ({100 * limit:g} %); they"
            " are of another reference: delete that folder or name another"
        )
