"""Computes what the loss of a micro-batch must know of its whole effective batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.engine.task import Task
from diffdpo.objective.scores import StepContext, StepPairs
from diffdpo.objective.terms import Objective
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
    rank: int = 0,
    learning: bool = True,
) -> StepContext:
    """The context of a step that has these ``batches`` here, on the process ``rank``, and as many
    on every process.

    ``learning``: the rewards of this step count for the running mean of a loss that reads one.
    """
    share = 1 / (len(batches) * processes)
    pairs = None
    if objective.of_step and share < 1:
        pairs = step_pairs(task, model, reference, batches, total, processes, rank)
    z: Tensor | float = 0.0
    if objective.needs_kl:
        draws = task.reference_point_draws(batches)
        z = reference_point(task, model, reference, draws, total)
    elif objective.running is not None:
        z = objective.running.mean
        # Where the step is one micro-batch, ``Objective.settled`` adds its rewards to the mean.
        if learning and share < 1:
            added = rewards_of(task, model, reference, map(task.draw, batches), total)
            z = objective.running.with_rewards(*added)[0]
    if not objective.reads_token_counts:
        return StepContext(share, z, pairs=pairs)
    # Counted from the batches before any network runs, because the first loss needs them.
    counts = torch.tensor([task.token_counts(batch) for batch in batches], dtype=torch.float32)
    chosen, rejected, prompts, pair_count = total(counts.sum(dim=0))
    # At least one token: a step of nothing but empty completions has a loss of 0, not of 0 by 0.
    return StepContext(
        share,
        z,
        chosen_tokens=chosen.clamp(min=1) / pair_count,
        rejected_tokens=rejected.clamp(min=1) / pair_count,
        prompt_tokens=prompts / pair_count,
        pairs=pairs,
    )


@torch.no_grad()
def step_pairs(
    task: Task,
    model: nn.Module,
    reference: Reference,
    batches: Sequence[Any],
    total: Total,
    processes: int,
    rank: int,
) -> StepPairs:
    """Scores and rewards of all pairs of a step, process after process.

    It is a pass of its own over the whole effective batch, before the first micro-batch has its
    loss, so that a pair meets the same others however the batch is cut.
    """
    parts = []
    for batch in batches:
        draw = task.draw(batch)
        frozen_N = reference.score(task.score, model, draw)
        score_N = task.score(unwrapped(model), draw).score_N
        parts.append(torch.stack([score_N, implicit_reward(score_N, frozen_N)]).view(2, 2, -1))
    own = torch.cat(parts, dim=2)
    # As a sum, in which every process has its own place.
    places = own.new_zeros(processes, *own.shape)
    places[rank] = own
    everyone = total(places).permute(1, 2, 0, 3).flatten(2)
    sizes = [part.shape[2] for part in parts]
    starts = [rank * own.shape[2] + sum(sizes[:index]) for index in range(len(sizes))]
    return StepPairs(everyone[0], everyone[1], tuple(starts))


@torch.no_grad()
def rewards_of(
    task: Task, model: nn.Module, reference: Reference, draws: Iterable[Any], total: Total
) -> tuple[Tensor, Tensor]:
    """Sum and number of the rewards of all items of ``draws`` over all processes.

    It is a pass of its own over the whole effective batch, so that what is made of them does not
    depend on how the batch is cut into micro-batches and among processes.
    """
    rewards = []
    for draw in draws:
        frozen_N = reference.score(task.score, model, draw)
        rewards.append(implicit_reward(task.score(unwrapped(model), draw).score_N, frozen_N))
    return reward_total(rewards, total)


def reward_total(rewards: Sequence[Tensor], total: Total) -> tuple[Tensor, Tensor]:
    """Sum and number of the rewards of this process's micro-batches and those of all others."""
    # One sum over all items, divided once: means of unequal batches would weigh items unequally.
    sums = [
        torch.stack([reward_N.sum(), reward_N.new_full((), len(reward_N))]) for reward_N in rewards
    ]
    reward_sum, count = total(torch.stack(sums).sum(dim=0))
    return reward_sum, count


def reference_point(
    task: Task, model: nn.Module, reference: Reference, draws: Iterable[Any], total: Total
) -> Tensor:
    """KTO's z: the mean reward of all items of ``draws`` over all processes, clamped at 0
    (Ethayarajh et al. 2024, section 4.1)."""
    reward_sum, count = rewards_of(task, model, reference, draws, total)
    return (reward_sum / count).clamp(min=0)
