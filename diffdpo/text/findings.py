"""What an evaluation of a language model found, as lines and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    rewards: dict[str, dict[str, Estimate]]  # the figures of each; the first is the headline
    identities: Mapping[str, Mapping[str, str]]  # of the rewards
    prompts: Overlap  # of the continued prompts with the training set
    pairs: Overlap  # of the pairs with it

    @property
    def reward(self) -> str | None:
        """The first reward; None where none judged."""
        return next(iter(self.rewards), None)

    def as_dict(self) -> dict[str, Any]:
        """The content of evaluation.json, with the first reward's figures on top."""
        overlaps = {"prompts": self.prompts.as_dict(), "pairs": self.pairs.as_dict()}
        own = {
            name: {**row, "identity": self.identities[name]} for name, row in self.rewards.items()
        }
        top = {"reward": self.reward, **self.rewards[self.reward]} if self.reward else {}
        return {**top, **self.figures, "rewards": own, "trained_on": overlaps}


def rows_side_by_side(compared: Comparison, before: Written, after: Written) -> list[list[str]]:
    """The first continuation of the first prompts, with its first reward, by either model; chosen
    by nothing else."""
    every = compared.settings.visits
    firsts = range(0, min(len(before.texts), SHOWN * every), every)

    def shown(written: Written, at: int) -> str:
        scores = next(iter(written.rewards.values()), None)
        return written.texts[at] + ("" if scores is None else f" ({scores[at]:+.2f})")

    return [[shown(written, at) for written in (before, after)] for at in firsts]


def plain(estimate: Estimate, digits: int = 3) -> str:
    """'0.312 [0.271, 0.354]'."""
    low, high = estimate.interval
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{estimate.caution}"


def unit(reward: str) -> str:
    """What a figure of this reward is."""
    return "VADER, -1 to 1" if reward == "sentiment" else reward


def accuracy_line(found: Findings) -> str:
    """The implicit accuracy with all that it has to be read with."""
    return f"{found.figures['implicit_accuracy'].percent()} accuracy on {found.pairs}"


def verdict(found: Findings, reward: str) -> list[str]:
    """Win rate and difference by a reward, with all that they have to be read with."""
    rate, difference = (found.rewards[reward][name] for name in ("win_rate", "difference"))
    return [
        f"{rate.percent()}, {rate.n} texts of {found.prompts}{rate.doubt(0.5, '50 %')}",
        f"{plain(difference)}{difference.doubt(0, '0')}",
    ]


def judges(found: Findings) -> list[str]:
    """What the numbers of each reward depend on."""
    return [
        f"{name}: {', '.join(f'{part} {value}' for part, value in identity.items())}"
        for name, identity in found.identities.items()
    ]


def summary(found: Findings) -> list[str]:
    """The result in a few lines; the first reward stands last, with all of its figures."""
    lines = [f"judge        {line}" for line in judges(found)]
    lines.append(f"implicit     {accuracy_line(found)}")
    lines += [f"win rate     {verdict(found, n)[0]} ({n})" for n in list(found.rewards)[1:]]
    if found.reward:
        rate, difference = verdict(found, found.reward)
        row = found.rewards[found.reward]
        means = [f"{who} {row[f'{who}_reward'].value:.3f}" for who in ("policy", "reference")]
        lines += [
            f"win rate     {rate}",
            f"reward       {', '.join(means)} ({unit(found.reward)})",
            f"difference   {difference}",
        ]
    return [*lines, f"KL           {plain(found.figures['kl'], 1)} nats a text"]


ROWS = {
    "implicit_accuracy": "implicit accuracy",
    "kl": "KL, nats a text",
    "policy_tokens": "tokens, policy",
    "reference_tokens": "tokens, reference",
}
OF_REWARD = {
    "win_rate": "win rate",
    "policy_reward": "policy",
    "reference_reward": "reference",
    "difference": "difference",
}


def compose(report: Report, found: Findings, texts: list[list[str]], notes: Sequence[str]) -> None:
    """The page: result, ``notes`` on it, figures, texts side by side."""
    headline(report, found)
    report.notes(notes)
    if found.rewards:
        report.section("Rewards", "95 % intervals over prompts; the difference is paired.")
        body = [[n, *(plain(row[f]) for f in OF_REWARD)] for n, row in found.rewards.items()]
        report.table(["reward", *OF_REWARD.values()], body)
        report.notes(judges(found))
    report.section("Figures", "95 % intervals over prompts.")
    rows = [[title, plain(found.figures[name])] for name, title in ROWS.items()]
    report.table(["", "mean and interval"], rows)
    report.section("Implicit accuracy", accuracy_line(found))
    report.section(
        "Side by side",
        "The first prompts, chosen by the seed alone; the first reward of each in brackets.",
    )
    report.table(["reference", "policy"], texts, numbers=False)


def headline(report: Report, found: Findings) -> None:
    """The first reward's verdict in large letters, or where there is none the accuracy."""
    if found.reward is None:
        report.headline(accuracy_line(found), "Share of pairs that the policy orders as labelled.")
        return
    rate, difference = verdict(found, found.reward)
    row = found.rewards[found.reward]
    policy, reference = (plain(row[f"{who}_reward"], 2) for who in ("policy", "reference"))
    report.headline(
        f"Win rate {rate}",
        f"Reward {policy}, reference {reference} ({unit(found.reward)}), difference {difference};"
        " the same random numbers, temperature 1.",
    )
