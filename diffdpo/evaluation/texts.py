"""What rewards say of the texts of several models."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from diffdpo.engine.labels import REFERENCE
from diffdpo.evaluation.scores import Rows, Scores
from diffdpo.metrics.intervals import Estimate, clustered_mean, clustered_share
from diffdpo.metrics.judged import faced
from diffdpo.text.sampling.comparison import Comparison, Written


def scores_of_texts(compared: Comparison, written: Mapping[str, Written]) -> Scores:
    """The scores of what each model wrote, by its label, with the wins of every two by rewards that
    look at two texts at once; lengths are in characters."""
    prompts = compared.clusters()
    seen = {}
    for name, reward in compared.rewards.items():
        for one, other in combinations(written, 2) if reward.versus else ():
            asked = compared.prompts_for(reward, written[one].heads)
            label = f"judging {other} against {one} by {name}"
            sides = (written[other].tails, written[one].tails)
            seen[name, other, one] = faced(reward, *sides, asked, compared.batch, label)
    return Scores(
        prompts,
        {label: texts.rewards for label, texts in written.items()},
        {},
        compared.settings.seed,
        seen,
        {label: np.array([len(tail) for tail in texts.tails]) for label, texts in written.items()},
    )


def text_rows(scores: Scores, label: str) -> Rows:
    """The figures of a policy by every reward, with the means of both as estimates."""
    rows = scores.rows(label)
    for reward, row in rows.items():
        for who, side in (("policy", label), ("reference", REFERENCE)):
            del row[f"{who}_mean"]
            values = scores.by_label[side][reward].tolist()
            row[f"{who}_reward"] = clustered_mean(values, scores.prompts, scores.seed)
    return rows


def format_figures(compared: Comparison, policy: Written, reference: Written) -> dict[str, Any]:
    """The strict accuracies of Zhou et al. 2023 with intervals over prompts; empty without
    instructions.

    They are the share of texts that follow all instructions of their prompt, also as a difference
    to the reference, and that of instructions that are followed, over all and by name.
    """
    if not compared.instructions:
        return {}
    seed, times = compared.settings.seed, compared.settings.visits
    asked = [told for told in compared.instructions for _ in range(times)]
    rows = [row for row, told in enumerate(asked) if told]
    names = compared.clusters()
    own, old = ([[one.followed(written.tails[row]) for one in asked[row]] for row in rows]
                for written in (policy, reference))  # fmt: skip
    prompts = [names[row] for row in rows]

    def share(followed: list[tuple[str, bool]]) -> Estimate:
        return clustered_share([float(yes) for _, yes in followed], [n for n, _ in followed], seed)

    def all_followed(checks: list[list[bool]]) -> list[tuple[str, bool]]:
        return [(name, all(row)) for name, row in zip(prompts, checks, strict=True)]

    by_name: dict[str, list[tuple[str, bool]]] = {}
    for row, name, checks in zip(rows, prompts, own, strict=True):
        for one, yes in zip(asked[row], checks, strict=True):
            by_name.setdefault(one.name, []).append((name, yes))
    gap = [float(all(one)) - all(other) for one, other in zip(own, old, strict=True)]
    return {
        "prompts": share(all_followed(own)),
        "reference_prompts": share(all_followed(old)),
        "difference": clustered_mean(gap, prompts, seed),
        "instructions": share([one for told in by_name.values() for one in told]),
        "by_name": {name: share(told) for name, told in sorted(by_name.items())},
    }
