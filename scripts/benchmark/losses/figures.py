"""From results of single runs to figures of a loss, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from diffdpo.metrics.intervals import Estimate, clustered_mean

Result = Mapping[str, Any]  # what a run found
Runs = dict[int, Result]  # by seed
Key = tuple[str, float, str]  # model, share, loss
BASELINE = "sigmoid"  # what other losses are compared with
# A run's figures, by the name that the page has for them.
FIGURES: dict[str, Callable[[Result], float]] = {
    "win rate": lambda run: run["win_rate"]["value"],
    "implicit accuracy": lambda run: run["implicit_accuracy"]["value"],
    "above difficulty": lambda run: run["by_difficulty"]["gain"]["value"],
    "winner's error": lambda run: run["winners_error"] / run["reference_error"],
    "diversity": lambda run: run["diversity"]["policy"] / run["diversity"]["reference"] - 1,
}


def by_loss(results: Iterable[Result]) -> dict[Key, Runs]:
    """The runs of every loss on every model at every share."""
    found: dict[Key, Runs] = {}
    for run in results:
        found.setdefault((run["model"], run["share"], run["loss"]), {})[run["seed"]] = run
    return found


def over_seeds(values: Mapping[int, float]) -> Estimate:
    """The mean with Student's interval; of one seed without bounds."""
    return clustered_mean(list(values.values()), list(values))


def estimate(runs: Runs, figure: str) -> Estimate:
    """A figure of a loss."""
    return over_seeds({seed: FIGURES[figure](run) for seed, run in runs.items()})


def beside(runs: Runs, others: Runs, figure: str) -> Estimate | None:
    """By how much a figure is above that of another loss, seed by seed: pairs, timesteps, noises
    and flipped labels are the same. None without a common seed."""
    own = FIGURES[figure]
    gaps = {seed: own(run) - own(others[seed]) for seed, run in runs.items() if seed in others}
    return over_seeds(gaps) if gaps else None
