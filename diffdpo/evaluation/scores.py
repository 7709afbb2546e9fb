"""Who is compared in an evaluation, and who wins how often by which reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from diffdpo.engine.labels import REFERENCE, labels
from diffdpo.evaluation.strengths import all_duels, strengths
from diffdpo.metrics.intervals import clustered_mean, clustered_share, win_rate
from diffdpo.metrics.length_control import length_controlled
from diffdpo.metrics.significance import LEVEL, holm, sign_flip

Rows = dict[str, dict[str, Any]]  # the figures of each reward


@dataclass(frozen=True)
class Entrant:
    """A result that is judged, under the name that its pictures and figures have."""

    label: str
    run: str
    is_control: bool = False


def entrants(policies: Sequence[str], control: str | None) -> list[Entrant]:
    """The policies and the control, each with a label of its own."""
    runs = [*policies, *([control] if control else [])]
    return [
        Entrant(label, run, run == control) for label, run in zip(labels(runs), runs, strict=True)
    ]


@dataclass(frozen=True)
class Scores:
    """The scores of ``N`` pictures or texts of each policy and of the reference, by label and
    reward; of the reference also the best of several of the same prompt.

    ``faced`` has the wins ``(N,)`` of one over another by rewards that look at two pictures at
    once, under (reward, one, other). ``lengths`` are those of texts ``(N,)`` by label; where they
    are given there is a win rate at equal lengths.
    """

    prompts: list[str]  # of each picture
    by_label: Mapping[str, Mapping[str, np.ndarray]]
    best: Mapping[str, np.ndarray]
    seed: int
    faced: Mapping[tuple[str, str, str], np.ndarray] = field(default_factory=dict)
    lengths: Mapping[str, np.ndarray] = field(default_factory=dict)

    def wins(self, one: str, other: str, reward: str) -> np.ndarray:
        """(N,): 1 where a picture of ``one`` scores higher, ½ where both score the same."""
        if (seen := self.faced.get((reward, one, other))) is not None:
            return seen
        if (seen := self.faced.get((reward, other, one))) is not None:
            return 1 - seen
        return shares(self.by_label[one][reward], self.by_label[other][reward])

    def row(self, label: str, reward: str) -> dict[str, Any]:
        """The figures of a policy against the reference by one reward."""
        old, new = self.by_label[REFERENCE][reward], self.by_label[label][reward]
        wins = self.wins(label, REFERENCE, reward)
        row = {
            "win_rate": clustered_share(wins.tolist(), self.prompts, self.seed),
            "difference": clustered_mean((new - old).tolist(), self.prompts, self.seed),
            "reference_mean": float(old.mean()),
            "policy_mean": float(new.mean()),
            "ties": int((wins == 0.5).sum()),
            "p_value": sign_flip((wins - 0.5).tolist(), self.prompts, self.seed),
        }
        if self.lengths:
            gap = self.lengths[label] - self.lengths[REFERENCE]
            row["length_controlled"] = length_controlled(
                wins.tolist(), gap.tolist(), self.prompts, self.seed
            )
        if reward in self.best:
            best = self.best[reward]
            row["best_of"] = {
                "win_rate": win_rate(new, best, self.prompts, self.seed),
                "reference_mean": float(best.mean()),
            }
        return row

    def rows(self, label: str) -> Rows:
        """The figures of a policy by every reward; p-values also corrected for their number."""
        rows = {reward: self.row(label, reward) for reward in self.by_label[label]}
        for reward, value in holm({name: row["p_value"] for name, row in rows.items()}).items():
            rows[reward]["p_holm"] = value
        return rows

    def duels(self, reward: str) -> list[dict[str, Any]]:
        """The win rate of the second over the first, of every two."""
        return [
            {
                "reward": reward,
                "policy": other,
                "against": one,
                "win_rate": clustered_share(
                    self.wins(other, one, reward).tolist(), self.prompts, self.seed
                ),
            }
            for one, other in combinations(self.by_label, 2)
        ]

    def differences(self, reward: str) -> list[dict[str, Any]]:
        """The win rate of the second over the reference minus that of the first, of every two
        policies: paired by prompt, and so narrower than two intervals side by side."""
        own = [label for label in self.by_label if label != REFERENCE]
        found = []
        for one, other in combinations(own, 2):
            gap = self.wins(other, REFERENCE, reward) - self.wins(one, REFERENCE, reward)
            found.append(
                {
                    "reward": reward,
                    "policy": other,
                    "minus": one,
                    "difference": clustered_mean(gap.tolist(), self.prompts, self.seed),
                }
            )
        return found


def shares(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """(N,): 1 where the first number is larger, ½ where both are equal."""
    return (np.sign(new - old) + 1) / 2


def significant(rows: Rows) -> int:
    """How many rewards show a difference that holds for all of them together."""
    return sum(row["p_holm"] <= LEVEL for row in rows.values())


@dataclass(frozen=True)
class Between:
    """What policies are against each other; empty of one policy."""

    duels: Sequence[dict[str, Any]] = ()  # by every reward
    differences: Sequence[dict[str, Any]] = ()
    strengths: dict[str, Any] | None = None  # by the reward on top

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = {"table": list(self.duels), "differences": list(self.differences)}
        return {**rows, "strengths": self.strengths}


def between(scores: Scores, headline: str | None) -> Between:
    """The games of policies and reference against each other; none of one policy, or where no
    reward judged."""
    names = list(scores.by_label)
    if len(names) < 3 or headline is None:
        return Between()
    games = all_duels(names, lambda one, other: scores.wins(one, other, headline))
    rewards = list(scores.by_label[REFERENCE])
    return Between(
        [row for name in rewards for row in scores.duels(name)],
        [row for name in rewards for row in scores.differences(name)],
        strengths(names, games, scores.prompts),
    )
