"""Held-out implicit accuracy: how often the policy's implicit reward puts the winner first.

No sampling is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffdpo.metrics.intervals import Estimate, clustered_mean, clustered_share
from diffdpo.objective.scores import Scores
from diffdpo.preference import accuracy, implicit_reward
from diffdpo.reference import Reference

BUCKETS = 5  # of the timestep
Loss = Callable[[Scores, Tensor, Any], Tensor]


@dataclass(frozen=True)
class Margins:
    """Implicit margins of ``P`` pairs at ``K`` draws each, the timesteps of the draws, and the
    scores of the chosen and of the rejected items by policy and reference."""

    margin_PK: Tensor
    timestep_PK: Tensor
    prompts: list[str]
    chosen_PK2: Tensor | None = None
    loss_PK: Tensor | None = None  # where one was asked for
    rejected_PK2: Tensor | None = None


def implicit_margins(
    rows: Any,
    task: Any,
    model: nn.Module,
    reference: Reference,
    draws: int,
    batch: int,
    quiet: bool = False,
    loss: Loss | None = None,
) -> Margins:
    """The margins of every pair at ``draws`` draws, where visit k gives draw k; and its losses
    ``(B,)`` where a ``loss`` of policy scores, rewards and draw is given."""
    kept: list[list[Tensor]] = [[], [], [], [], []]  # margins, timesteps, scores, losses
    prompts: list[str] = []
    starts = [range(i, min(i + batch, len(rows))) for i in range(0, len(rows), batch)]
    for numbers in tqdm(starts, desc="implicit accuracy", unit="batch", disable=quiet):
        columns = []
        for visit in range(draws):
            items = [rows.read(row, visit) for row in numbers]
            columns.append(of_draw(task, model, reference, task.draw(task.collate(items)), loss))
        prompts += [item.prompt for item in items]
        for values, column in zip(kept, zip(*columns, strict=True), strict=True):
            values.append(torch.stack(column, dim=1).cpu())
    margins, timesteps, chosen, losses, rejected = (torch.cat(values) for values in kept)
    return Margins(margins, timesteps, prompts, chosen, losses if loss else None, rejected)


@torch.no_grad()
def of_draw(
    task: Any, model: nn.Module, reference: Reference, draw: Any, loss: Loss | None
) -> tuple[Tensor, ...]:
    """Of the pairs of one draw: margins ``(B,)``, timesteps, the chosen items' scores ``(B, 2)`` by
    policy and reference, losses (zeros where none is asked for), the rejected items' scores."""
    scores = task.score(model, draw)
    policy_N = scores.score_N
    reference_N = reference.score(task.score, model, draw)
    reward_N = implicit_reward(policy_N, reference_N)
    chosen_B, rejected_B = reward_N.chunk(2)
    loss_B = loss(scores, reward_N, draw) if loss else torch.zeros_like(chosen_B)
    both_N2 = torch.stack([policy_N, torch.zeros_like(policy_N) + reference_N], dim=1)
    chosen_B2, rejected_B2 = both_N2.chunk(2)
    # Of several draws in one score none is that score's.
    timestep_B = draw.timestep_N.chunk(2)[0].view(len(chosen_B), -1)[:, 0]
    return chosen_B - rejected_B, timestep_B, chosen_B2, loss_B, rejected_B2


def overall(margins: Margins, seed: int) -> Estimate:
    """The share of pairs whose mean margin over the draws is positive.

    This is the figure in the table of implicit accuracies of Wallace et al. 2023.
    """
    return clustered_share(accuracy(margins.margin_PK.mean(dim=1)).tolist(), margins.prompts, seed)


def winners_error(margins: Margins, seed: int) -> dict[str, Any]:
    """The mean squared error of the chosen pictures by policy and by reference, and the difference.

    A score is minus half such an error. It rises where a policy leaves what people preferred,
    although every margin may be right.
    """
    assert margins.chosen_PK2 is not None, "of draws alone"
    error_P2 = -2 * margins.chosen_PK2.double().mean(dim=1).numpy()
    change_P = (error_P2[:, 0] - error_P2[:, 1]).tolist()
    policy, reference = error_P2.mean(axis=0).tolist()
    difference = clustered_mean(change_P, margins.prompts, seed)
    return {"policy": policy, "reference": reference, "difference": difference}


def by_timestep(margins: Margins, timesteps: float, seed: int) -> list[dict[str, Any]]:
    """The accuracy of single draws in equal buckets of the timestep, from little noise to much.

    ``timesteps`` is the length of the process: a number of steps, or 1 for flows.
    """
    # A flow may meet t = 1 itself.
    last = BUCKETS - 1
    bucket = (margins.timestep_PK * BUCKETS // timesteps).flatten().clamp(max=last).numpy()
    right = accuracy(margins.margin_PK).flatten().numpy()
    # The draws of a pair, and the pairs of a prompt, are not independent: one cluster a prompt.
    clusters = np.repeat(margins.prompts, margins.margin_PK.shape[1])
    rows = []
    for index in range(BUCKETS):
        inside = bucket == index
        if inside.any():
            edges = [(index + end) * timesteps / BUCKETS for end in (0, 1)]
            if isinstance(timesteps, int):
                edges = [int(edge) for edge in edges]
            estimate = clustered_share(right[inside].tolist(), clusters[inside].tolist(), seed)
            rows.append({"timesteps": edges, **estimate.as_dict()})
    return rows
