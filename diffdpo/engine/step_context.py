"""Computes what the loss of a micro-batch must know of its whole effective batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.engine.task import Task
from diffdpo.objective import Objective, StepContext
from diffdpo.preference import implicit_reward
from diffdpo.reference import Reference, unwrapped

Total = Callable[[Tensor], Tensor]  # the sum of a tensor over all processes


def step_context(
    objective: Objective,
    task: Task,
    model: nn.Module,
    reference: Reference,
    batches: Sequence[Any],
    total: Total,
    processes: int = 1,
) -> StepContext:
    """The context of a step that has these ``batches`` here and as many on every process."""
    share = 1 / (len(batches) * processes)
    if objective.needs_kl:
        draws = task.reference_point_draws(batches)
        return StepContext(share, reference_point(task, model, reference, draws, total))
    if not objective.reads_token_counts:
        return StepContext(share)
    # Counted from the batches before any network runs, because the first loss needs them.
    counts = torch.tensor([task.token_counts(batch) for batch in batches], dtype=torch.float32)
    chosen, rejected, prompts, pairs = total(counts.sum(dim=0))
    # At least one token: a step of nothing but empty completions has a loss of 0, not of 0 by 0.
    return StepContext(
        share,
        chosen_tokens=chosen.clamp(min=1) / pairs,
        rejected_tokens=rejected.clamp(min=1) / pairs,
        prompt_tokens=prompts / pairs,
    )


@torch.no_grad()
def reference_point(
    task: Task, model: nn.Module, reference: Reference, draws: Iterable[Any], total: Total
) -> Tensor:
    """KTO's z: the mean reward of all items of ``draws`` over all processes, clamped at 0
    (Ethayarajh et al. 2024, section 4.1).

    It is a pass of its own over the whole effective batch, so that z does not depend on how the
    batch is cut into micro-batches and among processes.
    """
    # One sum over all items, divided once: means of unequal batches would weigh items unequally.
    sums = []
    for draw in draws:
        frozen_N = reference.score(task.score, model, draw)
        reward_N = implicit_reward(task.score(unwrapped(model), draw).score_N, frozen_N)
        sums.append(torch.stack([reward_N.sum(), reward_N.new_full((), len(reward_N))]))
    reward_sum, count = total(sum(sums[1:], sums[0]))
    return (reward_sum / count).clamp(min=0)
