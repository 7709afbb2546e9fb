"""Held-out implicit accuracy: how often the policy's implicit reward puts the winner first.

No sampling is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffdpo.metrics.intervals import Estimate, clustered_share
from diffdpo.preference import accuracy, implicit_reward
from diffdpo.reference import Reference

BUCKETS = 5  # of the timestep


@dataclass(frozen=True)
class Margins:
    """Implicit margins of ``P`` pairs at ``K`` draws each, and the timesteps of the draws."""

    margin_PK: Tensor
    timestep_PK: Tensor
    prompts: list[str]


def implicit_margins(
    rows: Any,
    task: Any,
    model: nn.Module,
    reference: Reference,
    draws: int,
    batch: int,
    quiet: bool = False,
) -> Margins:
    """The margins of every pair at ``draws`` draws, where visit k gives draw k."""
    margins, timesteps, prompts = [], [], []
    starts = [range(i, min(i + batch, len(rows))) for i in range(0, len(rows), batch)]
    for numbers in tqdm(starts, desc="implicit accuracy", unit="batch", disable=quiet):
        columns = []
        for visit in range(draws):
            items = [rows.read(row, visit) for row in numbers]
            draw = task.draw(task.collate(items))
            with torch.no_grad():
                reward_N = implicit_reward(
                    task.score(model, draw).score_N, reference.score(task.score, model, draw)
                )
            chosen_B, rejected_B = reward_N.chunk(2)
            columns.append((chosen_B - rejected_B, draw.timestep_N.chunk(2)[0]))
        prompts += [item.prompt for item in items]
        margins.append(torch.stack([margin for margin, _ in columns], dim=1).cpu())
        timesteps.append(torch.stack([timestep for _, timestep in columns], dim=1).cpu())
    return Margins(torch.cat(margins), torch.cat(timesteps), prompts)


def overall(margins: Margins, seed: int) -> Estimate:
    """The share of pairs whose mean margin over the draws is positive.

    This is the figure in the table of implicit accuracies of Wallace et al. 2023.
    """
    return clustered_share(accuracy(margins.margin_PK.mean(dim=1)).tolist(), margins.prompts, seed)


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
