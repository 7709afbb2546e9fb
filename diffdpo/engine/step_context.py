"""Computes what the loss of a micro-batch must know of its whole effective batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.engine.task import Task
from diffdpo.objective.scores import StepContext, StepPairs
from diffdpo.objective.terms import Objective
from diffdpo.preference import implicit_reward
from diffdpo.reference import Reference, unwrapped

Total = Callable[[Tensor], Tensor]  # the sum of a tensor over all processes


@dataclass(frozen=True)
class Scorers:
    """Policy and reference as they score the items of a step, without gradient, on the process
    ``rank`` of so many ``processes``.

    Each pass over the effective batch is one of its own, before the first micro-batch has its loss,
    so that what is made of it does not depend on how the batch is cut into micro-batches and among
    processes.
    """

    task: Task
    model: nn.Module
    reference: Reference
    total: Total
    processes: int = 1
    rank: int = 0

    @torch.no_grad()
    def scored(self, draw: Any) -> tuple[Tensor, Tensor]:
        """The policy's scores ``(N,)`` of a draw, and the rewards."""
        frozen_N = self.reference.score(self.task.score, self.model, draw)
        score_N = self.task.score(unwrapped(self.model), draw).score_N
        return score_N, implicit_reward(score_N, frozen_N)

    @torch.no_grad()
    def pairs(self, batches: Sequence[Any]) -> StepPairs:
        """Scores and rewards of all pairs of a step, process after process: a pair meets the same
        others however the batch is cut."""
        found = [torch.stack(self.scored(self.task.draw(batch))) for batch in batches]
        parts = [part.view(2, 2, -1) for part in found]
        own = torch.cat(parts, dim=2)
        # As a sum, in which every process has its own place.
        places = own.new_zeros(self.processes, *own.shape)
        places[self.rank] = own
        everyone = self.total(places).permute(1, 2, 0, 3).flatten(2)
        sizes = [part.shape[2] for part in parts]
        starts = [self.rank * own.shape[2] + sum(sizes[:index]) for index in range(len(sizes))]
        return StepPairs(everyone[0], everyone[1], tuple(starts))

    @torch.no_grad()
    def rewards(self, draws: Iterable[Any]) -> tuple[Tensor, Tensor]:
        """Sum and number of the rewards of all items of ``draws`` over all processes."""
        return reward_total([self.scored(draw)[1] for draw in draws], self.total)

    def reference_point(self, draws: Iterable[Any]) -> Tensor:
        """KTO's z: the mean reward of all items of ``draws`` over all processes, clamped at 0
        (Ethayarajh et al. 2024, section 4.1)."""
        reward_sum, count = self.rewards(draws)
        return (reward_sum / count).clamp(min=0)


def step_context(
    objective: Objective, scorers: Scorers, batches: Sequence[Any], learning: bool = True
) -> StepContext:
    """The context of a step that has these ``batches`` here, and as many on every process.

    ``learning``: the rewards of this step count for the running mean of a loss that reads one.
    """
    share = 1 / (len(batches) * scorers.processes)
    pairs = scorers.pairs(batches) if objective.of_step and share < 1 else None
    z: Tensor | float = 0.0
    if objective.needs_kl:
        z = scorers.reference_point(scorers.task.reference_point_draws(batches))
    elif objective.running is not None:
        z = objective.running.mean
        # Where the step is one micro-batch, ``Objective.settled`` adds its rewards to the mean.
        if learning and share < 1:
            added = scorers.rewards(map(scorers.task.draw, batches))
            z = objective.running.with_rewards(*added)[0]
    context = StepContext(share, z, pairs=pairs)
    return with_tokens(context, scorers, batches) if objective.reads_token_counts else context


def with_tokens(context: StepContext, scorers: Scorers, batches: Sequence[Any]) -> StepContext:
    """The context with the mean numbers of tokens of the step's pairs."""
    # Counted from the batches before any network runs, because the first loss needs them.
    counted = [scorers.task.token_counts(batch) for batch in batches]
    counts = torch.tensor(counted, dtype=torch.float32)
    chosen, rejected, prompts, pairs = scorers.total(counts.sum(dim=0))
    # At least one token: a step of nothing but empty completions has a loss of 0, not of 0 by 0.
    return replace(
        context,
        chosen_tokens=chosen.clamp(min=1) / pairs,
        rejected_tokens=rejected.clamp(min=1) / pairs,
        prompt_tokens=prompts / pairs,
    )


def reward_total(rewards: Sequence[Tensor], total: Total) -> tuple[Tensor, Tensor]:
    """Sum and number of the rewards of this process's micro-batches and those of all others."""
    # One sum over all items, divided once: means of unequal batches would weigh items unequally.
    sums = [
        torch.stack([reward_N.sum(), reward_N.new_full((), len(reward_N))]) for reward_N in rewards
    ]
    reward_sum, count = total(torch.stack(sums).sum(dim=0))
    return reward_sum, count
