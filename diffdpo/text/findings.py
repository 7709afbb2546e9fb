"""What an evaluation of a language model found, as lines and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffdpo.engine.trained_on import Overlap
from diffdpo.metrics.intervals import Estimate
from diffdpo.report.page import Report
from diffdpo.text.comparison import Comparison, Written

SHOWN = 12


@dataclass(frozen=True)
class Findings:
    """What an evaluation found, and on what."""

    figures: dict[str, Estimate]
    reward: str
    prompts: Overlap  # of the continued prompts with the training set
    pairs: Overlap  # of the pairs with it

    def as_dict(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        overlaps = {"prompts": self.prompts.as_dict(), "pairs": self.pairs.as_dict()}
        return {**self.figures, "trained_on": overlaps}


def rows_side_by_side(compared: Comparison, before: Written, after: Written) -> list[list[str]]:
    """The first continuation of the first prompts, with its reward, by either model; chosen by
    nothing else."""
    every = compared.settings.visits
    firsts = range(0, min(len(before.texts), SHOWN * every), every)
    return [[f"{w.texts[i]} ({w.rewards[i]:+.2f})" for w in (before, after)] for i in firsts]


def plain(estimate: Estimate, digits: int = 3) -> str:
    """'0.312 [0.271, 0.354]'."""
    low, high = estimate.interval
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{estimate.caution}"


def unit(reward: str) -> str:
    """What a figure of this reward is."""
    return "VADER, -1 to 1" if reward == "sentiment" else reward


def verdict(found: Findings) -> list[str]:
    """The main figures, each with all that it has to be read with: accuracy, win rate,
    difference."""
    accuracy, rate = found.figures["implicit_accuracy"], found.figures["win_rate"]
    difference = found.figures["difference"]
    return [
        f"{accuracy.percent()} accuracy on {found.pairs}",
        f"{rate.percent()}, {rate.n} texts of {found.prompts}{rate.doubt(0.5, '50 %')}",
        f"{plain(difference)}{difference.doubt(0, '0')}",
    ]


def summary(found: Findings) -> list[str]:
    """The result in a few lines."""
    accuracy, rate, difference = verdict(found)
    means = [f"{who} {found.figures[f'{who}_reward'].value:.3f}" for who in ("policy", "reference")]
    return [
        f"implicit     {accuracy}",
        f"win rate     {rate}",
        f"reward       {', '.join(means)} ({unit(found.reward)})",
        f"difference   {difference}",
        f"KL           {plain(found.figures['kl'], 1)} nats a text",
    ]


ROWS = {
    "implicit_accuracy": "implicit accuracy",
    "win_rate": "win rate",
    "policy_reward": "reward, policy",
    "reference_reward": "reward, reference",
    "difference": "difference",
    "kl": "KL, nats a text",
    "policy_tokens": "tokens, policy",
    "reference_tokens": "tokens, reference",
}


def compose(report: Report, found: Findings, texts: list[list[str]], notes: Sequence[str]) -> None:
    """The page: result, ``notes`` on it, figures, texts side by side."""
    figures, (accuracy, rate, difference) = found.figures, verdict(found)
    policy, reference = (plain(figures[f"{who}_reward"], 2) for who in ("policy", "reference"))
    report.headline(
        f"Win rate {rate}",
        f"Reward {policy}, reference {reference} ({unit(found.reward)}), difference {difference};"
        " the same random numbers, temperature 1.",
    )
    report.notes(notes)
    report.section("Figures", "95 % intervals over prompts; the difference is paired.")
    rows = [[title, plain(figures[name])] for name, title in ROWS.items()]
    report.table(["", "mean and interval"], rows)
    report.section("Implicit accuracy", accuracy)
    report.section(
        "Side by side",
        "The first prompts, chosen by the seed alone; the reward of each in brackets.",
    )
    report.table(["reference", "policy"], texts, numbers=False)
