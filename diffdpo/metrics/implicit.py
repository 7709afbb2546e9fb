"""Held-out implicit accuracy: does the policy's implicit reward put the winner first? No sampling
is needed."""

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

BUCKETS = 5


@dataclass(frozen=True)
class Margins:
    """Implicit margins, and the timesteps they were drawn at: both ``(pairs, draws)``."""

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
    """Margins of every pair at ``draws`` draws; visit k of a pair is its draw k."""
    margins, timesteps, prompts = [], [], []
    starts = [range(i, min(i + batch, len(rows))) for i in range(0, len(rows), batch)]
    for part in tqdm(starts, desc="implicit accuracy", unit="batch", disable=quiet):
        columns = []
        for visit in range(draws):
            items = [rows.read(row, visit) for row in part]
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


def overall(found: Margins, seed: int) -> Estimate:
    """Accuracy of a pair's mean margin over its draws, as in the paper's table of implicit
    accuracies."""
    return clustered_share(accuracy(found.margin_PK.mean(dim=1)).tolist(), found.prompts, seed)


def by_timestep(found: Margins, timesteps: int, seed: int) -> list[dict[str, Any]]:
    """Accuracy of single draws, in equal buckets of the timestep, from little noise to much."""
    bucket = (found.timestep_PK * BUCKETS // timesteps).flatten().numpy()
    right = accuracy(found.margin_PK).flatten().numpy()
    clusters = np.repeat(found.prompts, found.margin_PK.shape[1])
    rows = []
    for index in range(BUCKETS):
        inside = bucket == index
        if inside.any():
            edges = [index * timesteps // BUCKETS, (index + 1) * timesteps // BUCKETS]
            estimate = clustered_share(right[inside].tolist(), clusters[inside].tolist(), seed)
            rows.append({"timesteps": edges, **estimate.as_dict()})
    return rows
