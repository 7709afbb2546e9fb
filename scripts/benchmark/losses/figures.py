"""From results of single runs to figures of a loss, with intervals over seeds.

A row is one run: its model, share, loss and seed, and its figures by the name that the page has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from diffdpo.metrics.intervals import Estimate, clustered_mean
from scripts.benchmark.losses.plan import Cell

Row = Mapping[str, Any]
Runs = dict[int, Row]  # by seed
Key = tuple[str, float, str]  # model, share, loss
DIGITS = 6  # of a figure that is kept
FIGURES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "win rate": lambda run: run["win_rate"]["value"],
    "implicit accuracy": lambda run: run["implicit_accuracy"]["value"],
    "by difficulty": lambda run: run["by_difficulty"]["accuracy"],
    "winner's error": lambda run: run["winners_error"] / run["reference_error"],
    "diversity": lambda run: run["diversity"]["policy"] / run["diversity"]["reference"] - 1,
}


def row_of(cell: Cell, found: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a run, of all that was found."""
    return asdict(cell) | {name: round(of(found), DIGITS) for name, of in FIGURES.items()}


def by_loss(rows: Iterable[Row]) -> dict[Key, Runs]:
    """The runs of every loss on every model at every share."""
    found: dict[Key, Runs] = {}
    for row in rows:
        found.setdefault((row["model"], row["share"], row["loss"]), {})[row["seed"]] = row
    return found


def over_seeds(values: Mapping[int, float]) -> Estimate:
    """The mean with Student's interval; of one seed without bounds."""
    return clustered_mean(list(values.values()), list(values))


def estimate(runs: Runs, figure: str) -> Estimate:
    """A figure of a loss."""
    return over_seeds({seed: row[figure] for seed, row in runs.items()})


def beside(runs: Runs, others: Runs, figure: str) -> Estimate | None:
    """By how much a figure is above that of another loss, seed by seed: pairs, timesteps, noises
    and flipped labels are the same. None without a common seed."""
    gaps = {
        seed: row[figure] - others[seed][figure] for seed, row in runs.items() if seed in others
    }
    return over_seeds(gaps) if gaps else None
