"""What scores say of rewards: figures, lines to print, a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffdpo.commands.score_subjects import Subject
from diffdpo.metrics.accuracy import (
    Accuracy,
    Agreement,
    Calibration,
    agreements,
    calibration,
    pair_accuracy,
    pairs_within,
)
from diffdpo.report.page import Report
from diffdpo.report.reliability import reliability

Scores = dict[str, np.ndarray]  # of the items by reward, NaN for those that cannot be read
TIES = (
    "Pairs whose label is a tie are left out; pairs of equal scores count as half right. A soft"
    " label counts as what its larger half says."
)
FITTED = (
    "P(first wins) = sigmoid(gap / tau), tau the most likely one. Error and log-loss are those of"
    " predictions for either half of the prompts with the tau of the other; a coin has 0.693."
)
ALIKE = (
    "Same sign: the share of pairs that two rewards order alike, of those that both decide."
    " Kendall's tau over the pairs; nothing is compared across prompts."
)


@dataclass(frozen=True)
class Judged:
    """The figures of one reward."""

    identity: Mapping[str, str]
    mean: float
    accuracy: Accuracy | None
    calibration: Calibration | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "identity": dict(self.identity),
            "mean": self.mean,
            "accuracy": self.accuracy and self.accuracy.as_dict(),
            "calibration": self.calibration and self.calibration.as_dict(),
        }


@dataclass(frozen=True)
class Findings:
    """All figures."""

    what: str
    rewards: dict[str, Judged]
    agreements: dict[tuple[str, str], Agreement]

    def as_dict(self) -> dict[str, Any]:
        """The content of score.json."""
        alike = [{"rewards": list(two), **one.as_dict()} for two, one in self.agreements.items()]
        rewards = {name: row.as_dict() for name, row in self.rewards.items()}
        return {"judged": self.what, "rewards": rewards, "agreement": alike}


def find(
    subject: Subject,
    scores: Scores,
    good: np.ndarray,
    identities: Mapping[str, Mapping[str, str]],
    seed: int,
) -> Findings:
    """The figures of the pairs, or items, ``good``: those of which everything can be read."""
    prompts = [subject.prompts[at] for at in good]
    if subject.number_P2 is None:
        two = pairs_within(prompts)
        gaps = {n: s[good][two[:, 0]] - s[good][two[:, 1]] for n, s in scores.items()}
        used, outcome_P = [prompts[first] for first in two[:, 0]], None
    else:
        sides = subject.number_P2[good].T
        gaps = {name: score[sides[0]] - score[sides[1]] for name, score in scores.items()}
        used, outcome_P = prompts, subject.outcome_P[good]

    def judged(name: str) -> Judged:
        mean = float(np.nanmean(scores[name]))
        if outcome_P is None:
            return Judged(identities[name], mean, None, None)
        given = gaps[name], outcome_P, used, seed
        return Judged(identities[name], mean, pair_accuracy(*given), calibration(*given))

    alike = agreements(gaps, used, seed) if used else {}
    return Findings(subject.what, {name: judged(name) for name in scores}, alike)


def accuracy_text(found: Accuracy) -> str:
    """An accuracy with all that it has to be read with."""
    doubt = found.estimate.doubt(0.5, "50 %")
    return (
        f"{found.estimate.percent()} of {found.estimate.n:,} pairs{doubt}; {found.label_ties:,}"
        f" ties of labels left out, {found.score_ties:,} equal scores count half"
    )


def calibration_text(found: Calibration | None) -> str:
    """A calibration in a few words."""
    if found is None:
        return "none: too few prompts, or gaps that point away from the labels, or all to them"
    return (
        f"tau {found.tau:.4g}, error {100 * found.error:.1f} %, log-loss {found.loss:.3f} nats"
        " (cross-fitted over halves of the prompts)"
    )


def agreement_text(found: Agreement) -> str:
    """An agreement in a few words."""
    if found.same is None:
        return "no pair that both decide"
    return (
        f"same sign on {found.same.percent()} of {found.same.n:,} pairs, Kendall's tau"
        f" {found.kendall:.3f}; {found.ties:,} with equal scores left out"
    )


def summary(found: Findings) -> list[str]:
    """The result in a few lines."""
    lines = []
    for name, row in found.rewards.items():
        lines.append(f"mean         {name}: {row.mean:.4g}")
        if row.accuracy:
            lines.append(f"accuracy     {name}: {accuracy_text(row.accuracy)}")
        if row.accuracy:
            lines.append(f"calibration  {name}: {calibration_text(row.calibration)}")
    for (first, second), one in found.agreements.items():
        lines.append(f"agreement    {first}, {second}: {agreement_text(one)}")
    return lines


def compose(report: Report, found: Findings, notes: list[str]) -> None:
    """The page: accuracies, calibration with its plots, agreement, identities."""
    first = next(iter(found.rewards))
    best = found.rewards[first].accuracy
    report.headline(
        f"{first}: {best.estimate.percent()} of labels" if best else f"{found.what} judged",
        f"{found.what}." if best else "",
    )
    report.notes(notes)
    report.section("Rewards", TIES if best else "")
    header = ["reward", "mean", "accuracy", "pairs", "label ties", "score ties"]
    report.table(header, [accuracy_row(name, row) for name, row in found.rewards.items()])
    fitted = {name: row.calibration for name, row in found.rewards.items() if row.calibration}
    if fitted:
        report.section("Calibration", FITTED)
        rows = [
            [name, f"{one.tau:.4g}", f"{100 * one.error:.1f} %", f"{one.loss:.3f}"]
            for name, one in fitted.items()
        ]
        report.table(["reward", "tau", "calibration error", "log-loss, nats"], rows)
        curves = {
            name: [(b.confidence, b.right, b.count) for b in one.bins]
            for name, one in fitted.items()
        }
        report.plot(lambda: reliability(curves), "share right against confidence")
    if found.agreements:
        report.section("Agreement", ALIKE)
        rows = [[" and ".join(two), agreement_text(one)] for two, one in found.agreements.items()]
        report.table(["rewards", ""], rows, numbers=False)
    report.section("Identities", "Figures of another identity are not comparable.")
    identities = [
        [name, ", ".join(f"{part} {value}" for part, value in row.identity.items())]
        for name, row in found.rewards.items()
    ]
    report.table(["reward", "all that its numbers depend on"], identities, numbers=False)


def accuracy_row(name: str, row: Judged) -> list[str]:
    """The row of one reward in the table."""
    if row.accuracy is None:
        return [name, f"{row.mean:.4g}", "", "", "", ""]
    counts = [row.accuracy.estimate.n, row.accuracy.label_ties, row.accuracy.score_ties]
    return [
        name,
        f"{row.mean:.4g}",
        row.accuracy.estimate.percent(),
        *(f"{count:,}" for count in counts),
    ]
