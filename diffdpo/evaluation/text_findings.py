"""What an evaluation of language models found: for JSON, and in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffdpo.engine.labels import REFERENCE
from diffdpo.engine.trained_on import Overlap
from diffdpo.evaluation.lines import signed
from diffdpo.evaluation.scores import Between, Entrant, Rows
from diffdpo.metrics.intervals import Estimate
from diffdpo.text.sampling.comparison import Comparison, Written

SHOWN = 12


@dataclass(frozen=True)
class TextStanding:
    """What was found about one policy."""

    entrant: Entrant
    figures: dict[str, Estimate]
    rows: Rows  # the figures of each reward; the first is the headline
    formats: dict[str, Any]  # how far instructions were followed; empty without any
    prompts: Overlap  # of the continued prompts with the training set
    pairs: Overlap  # of the pairs with it

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        overlaps = {"prompts": self.prompts.as_dict(), "pairs": self.pairs.as_dict()}
        formats = {"formats": self.formats} if self.formats else {}
        return {**self.figures, **formats, "rewards": self.rows, "trained_on": overlaps}


@dataclass(frozen=True)
class TextFindings:
    """What an evaluation found, and by what."""

    standings: list[TextStanding]  # of the policies in their order
    identities: Mapping[str, Mapping[str, str]]  # of the rewards
    between: Between
    sampled: str  # how

    @property
    def reward(self) -> str | None:
        """The first reward; None where none judged."""
        return next(iter(self.identities), None)

    @property
    def several(self) -> bool:
        """Whether several policies are compared."""
        return len(self.standings) > 1

    def as_dict(self) -> dict[str, Any]:
        """The content of evaluation.json, with the first policy's figures on top, and on top of
        these the first reward's."""
        own = self.standings[0].as_dict()
        top = {"reward": self.reward, **own["rewards"][self.reward]} if self.reward else {}
        own["rewards"] = {
            name: {**row, "identity": self.identities[name]} for name, row in own["rewards"].items()
        }
        found = {**top, **own}
        if self.several:
            each = {one.entrant.label: {"run": one.entrant.run, **one.as_dict()}
                    for one in self.standings}  # fmt: skip
            found |= {"policies": each, **self.between.as_dict()}
        return {name: value for name, value in found.items() if value not in (None, [])}


def rows_side_by_side(compared: Comparison, written: Mapping[str, Written]) -> list[list[str]]:
    """The first continuation of the first prompts, with its first reward, by every model; chosen
    by nothing else."""
    every = compared.settings.visits
    firsts = range(0, min(len(written[REFERENCE].texts), SHOWN * every), every)

    def shown(texts: Written, at: int) -> str:
        scores = next(iter(texts.rewards.values()), None)
        return texts.texts[at] + ("" if scores is None else f" ({scores[at]:+.2f})")

    return [[shown(texts, at) for texts in written.values()] for at in firsts]


def plain(estimate: Estimate, digits: int = 3) -> str:
    """'0.312 [0.271, 0.354]'."""
    low, high = estimate.interval
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]{estimate.caution}"


def unit(reward: str) -> str:
    """What a figure of this reward is."""
    return "VADER, -1 to 1" if reward == "sentiment" else reward


def accuracy_line(one: TextStanding) -> str:
    """The implicit accuracy with all that it has to be read with."""
    return f"{one.figures['implicit_accuracy'].percent()} accuracy on {one.pairs}"


def verdict(one: TextStanding, reward: str) -> list[str]:
    """Win rate and difference by a reward, with all that they have to be read with."""
    rate, difference = (one.rows[reward][name] for name in ("win_rate", "difference"))
    return [
        f"{rate.percent()}, {rate.n} texts of {one.prompts}{rate.doubt(0.5, '50 %')}",
        f"{plain(difference)}{difference.doubt(0, '0')}",
    ]


def at_equal_length(one: TextStanding, reward: str) -> str:
    """The length-controlled win rate."""
    rate = one.rows[reward]["length_controlled"]
    return f"{rate.percent()}{rate.doubt(0.5, '50 %')}"


def format_lines(one: TextStanding) -> list[str]:
    """How far instructions were followed; nothing where there were none."""
    if not (found := one.formats):
        return []
    gap, rate = found["difference"], found["instructions"]
    return [
        f"{found['prompts'].percent()} of texts follow all instructions of their prompt, reference"
        f" {found['reference_prompts'].percent()}, {signed(gap, 100)} points{gap.doubt(0, '0')}",
        f"{rate.percent()} of {rate.n} instructions followed",
    ]


def judges(found: TextFindings) -> list[str]:
    """What the numbers of each reward depend on."""
    return [
        f"{name}: {', '.join(f'{part} {value}' for part, value in identity.items())}"
        for name, identity in found.identities.items()
    ]


def summary(found: TextFindings) -> list[str]:
    """The result in a few lines; of each policy the first reward stands last, with all of its
    figures."""
    lines = [f"judge        {line}" for line in judges(found)]
    for one in found.standings:
        lines += lines_of(found, one, f"{one.entrant.label}: " if found.several else "")
    return lines


def lines_of(found: TextFindings, one: TextStanding, name: str) -> list[str]:
    """What is printed of one policy; ``name`` stands before each figure."""
    lines = [f"implicit     {name}{accuracy_line(one)}"]
    lines += [f"formats      {name}{line}" for line in format_lines(one)]
    lines += [f"win rate     {name}{verdict(one, n)[0]} ({n})" for n in list(one.rows)[1:]]
    if found.reward:
        rate, difference = verdict(one, found.reward)
        row = one.rows[found.reward]
        means = [f"{who} {row[f'{who}_reward'].value:.3f}" for who in ("policy", "reference")]
        lines += [
            f"win rate     {name}{rate}",
            f"equal length {name}{at_equal_length(one, found.reward)}",
            f"reward       {name}{', '.join(means)} ({unit(found.reward)})",
            f"difference   {name}{difference}",
        ]
    if "kl" in one.figures:
        lines.append(f"KL           {name}{plain(one.figures['kl'], 1)} nats a text")
    return lines
