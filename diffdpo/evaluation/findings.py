"""What an evaluation of images found: for JSON, and in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffdpo.engine.trained_on import Overlap
from diffdpo.evaluation.lines import family_line, signed
from diffdpo.evaluation.scores import Between, Entrant, Rows
from diffdpo.image.sampling.comparison import Accuracy
from diffdpo.metrics.intervals import Estimate
from diffdpo.metrics.significance import ENOUGH, resolution

NO_CONTROL = (
    "No coin-toss control: train the same run once more with --random_labels, and name it with"
    " --control. What it wins is not preference."
)
TIES = "equal scores count 1/2"


@dataclass(frozen=True)
class Standing:
    """What was found about one policy."""

    entrant: Entrant
    rows: Rows
    accuracy: Accuracy | None
    prompts: Overlap  # of the pictures' prompts with the training set
    pairs: Overlap | None  # the same of the prompts of the pairs
    diversity: dict[str, Any] | None
    drift: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        overlaps = {"prompts": self.prompts, "pairs": self.pairs}
        held = {name: found.as_dict() for name, found in overlaps.items() if found is not None}
        rest = {"implicit_accuracy": self.accuracy, "diversity": self.diversity}
        return {
            "run": self.entrant.run,
            "control": self.entrant.is_control,
            "rewards": self.rows,
            "trained_on": held,
            **{name: value for name, value in rest.items() if value is not None},
            "drift": self.drift,
        }


@dataclass(frozen=True)
class Judges:
    """The rewards by name: what the numbers of each depend on, those that made training pairs, and
    the one on top."""

    headline: str
    identities: Mapping[str, Mapping[str, str]]
    trained_on: Sequence[str]
    too_long: Mapping[str, int]  # prompts that a reward reads in part

    def named(self, reward: str) -> str:
        """The reward's name, marked where it made the training pairs."""
        return f"{reward} (trained on)" if reward in self.trained_on else reward


@dataclass(frozen=True)
class Findings:
    """What an evaluation found, and on what."""

    standings: list[Standing]  # of the policies in their order, and then of the control
    judges: Judges
    between: Between
    tower: str
    sampled: Mapping[str, Any]  # how
    prompts: int
    best_of: int | None
    votes: dict[str, Any] | None = None

    @property
    def policies(self) -> list[Standing]:
        """All but the control."""
        return [standing for standing in self.standings if not standing.entrant.is_control]

    @property
    def control(self) -> Standing | None:
        """The policy that was trained on coin tosses, if any."""
        return next((one for one in self.standings if one.entrant.is_control), None)

    def rate(self, standing: Standing) -> Estimate:
        """The win rate on top."""
        rate: Estimate = standing.rows[self.judges.headline]["win_rate"]
        return rate

    def as_dict(self) -> dict[str, Any]:
        """The content of evaluation.json, with the first policy's figures on top."""
        first = self.policies[0]
        top: dict[str, Any] = {"win_rate": self.rate(first), "reward": self.judges.headline}
        own = first.as_dict()
        top |= {name: own[name] for name in ("rewards", "trained_on")}
        if first.accuracy:
            top["implicit_accuracy"] = first.accuracy
        top["policies"] = {one.entrant.label: one.as_dict() for one in self.standings}
        top["judges"] = {
            name: {**identity, "made the training pairs": name in self.judges.trained_on,
                   "prompts cut": self.judges.too_long[name]}
            for name, identity in self.judges.identities.items()
        }  # fmt: skip
        top |= {**self.between.as_dict(), "votes": self.votes}
        top["diversity_by"], top["sampling"] = self.tower, dict(self.sampled)
        return {name: value for name, value in top.items() if value not in (None, [])}


def verdict(found: Findings, one: Standing) -> str:
    """The win rate and all that it has to be read with."""
    rate, reward = found.rate(one), found.judges.headline
    few = f"; {resolution(rate.clusters)}" if rate.clusters < ENOUGH else ""
    return (
        f"{rate.percent()} by {found.judges.named(reward)}, {rate.n} pictures of {one.prompts}"
        f"{rate.doubt(0.5, '50 %')}{few}"
    )


def accuracy_line(standing: Standing) -> str:
    """The implicit accuracy and all that it has to be read with."""
    assert standing.accuracy is not None
    estimate, control = standing.accuracy.estimate, standing.accuracy.difficulty
    return (
        f"{estimate.percent()} accuracy on {estimate.n} pairs of {standing.pairs};"
        f" {100 * control.accuracy:.1f} % follow from which picture is easier to predict, it is"
        f" {signed(control.gain, 100)} points above{control.gain.doubt(0, '0')}"
        f"{part_of_t(*standing.accuracy.timestep_range)}"
    )


def part_of_t(low: float, high: float) -> str:
    """What an implicit accuracy leaves out that is drawn from a part of all t, as its run was."""
    if (low, high) == (0, 1):
        return ""
    return f"; at t of {low:g} to {high:g} alone, --timestep_range 0 1 judges all"


def accuracy_cell(standing: Standing) -> str:
    """The implicit accuracy beside its control, for a table; empty where there is none."""
    if standing.accuracy is None:
        return ""
    control = 100 * standing.accuracy.difficulty.accuracy
    return f"{standing.accuracy.estimate.percent()}; {control:.1f} % by difficulty alone"


def changed(figure: Mapping[str, Any], scale: float = 1.0) -> str:
    """'0.21, reference 0.24, difference −0.03 [−0.05, −0.01]'."""
    policy, reference = (f"{scale * figure[who]:.3g}" for who in ("policy", "reference"))
    doubt = figure["difference"].doubt(0, "0")
    return f"{policy}, reference {reference}, {signed(figure['difference'], scale)}{doubt}"


def above_control(found: Findings, one: Standing) -> Estimate | None:
    """The win rate of a policy minus that of the control, paired by prompt."""
    if found.control is None or found.control is one:
        return None
    pair = {found.control.entrant.label, one.entrant.label}
    gap: Estimate = next(
        row["difference"]
        for row in found.between.differences
        if row["reward"] == found.judges.headline and {row["policy"], row["minus"]} == pair
    )
    # Differences are of the later minus the earlier, and the control is the last.
    low, high = gap.interval
    return replace(gap, value=0.0 - gap.value, interval=(0.0 - high, 0.0 - low))  # no −0


def beside(found: Findings, one: Standing) -> dict[str, str]:
    """What stands beside the win rate of a policy: a line for each of control and best of n."""
    lines, reward = {}, found.judges.headline
    if (gap := above_control(found, one)) and found.control:
        lines["control"] = (
            f"{found.rate(found.control).percent()} on coin-toss labels; the policy is"
            f" {signed(gap, 100)} points above{gap.doubt(0, '0')}"
        )
    if best := one.rows[reward].get("best_of"):
        rate = best["win_rate"]
        lines["best of n"] = (
            f"{rate.percent()} against the best of {found.best_of} pictures of the reference, by"
            f" {found.judges.named(reward)}{rate.doubt(0.5, '50 %')}"
        )
    return lines


def about(found: Findings, one: Standing) -> dict[str, str]:
    """What the pictures of a policy became besides, by name."""
    lines = {}
    if one.diversity:
        lines["diversity"] = f"{changed(one.diversity)} between seeds, by {found.tower}"
    lines["clipped"] = f"{changed(one.drift['clipped'], 100)} % of values at 250 or more"
    lines["colour"] = f"{changed(one.drift['colourfulness'])} (colourfulness)"
    gone = one.drift["distance"]
    lines["distance"] = f"{gone.value:.3g} of 255 from the reference's picture of the same seed"
    if one.accuracy:
        error = one.accuracy.winner
        lines["error"] = f"{changed(error)} on the chosen pictures"
    return lines


def summary(found: Findings) -> list[str]:
    """The result in a few lines, to print."""
    lines, several = [], len(found.standings) > 1
    for one in found.standings:
        name = f"{one.entrant.label}: " if several else ""
        lines.append(f"rewards      {name}{family_line(one.rows)}")
        if not one.entrant.is_control:
            figures = {**about(found, one), **beside(found, one)}
            shown = ("diversity", "control", "best of n")
            lines += [f"{key:<12} {name}{figures[key]}" for key in shown if key in figures]
        if one.accuracy:
            lines.append(f"implicit     {name}{accuracy_line(one)}")
    if found.votes:
        lines += [f"votes        {line}" for line in found.votes["lines"]]
    for one in found.standings:
        name = f"{one.entrant.label}: " if several else ""
        lines.append(f"win rate     {name}{verdict(found, one)}")
    return lines
