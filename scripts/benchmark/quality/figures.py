"""From judged snapshots to seconds and steps until a win rate, with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from diffdpo.metrics.intervals import clustered_mean

TARGETS = (0.65, 0.75, 0.85)
UNITS = ("seconds", "step")
Line = dict[str, Any]  # a judged snapshot


def smooth(values: Sequence[float]) -> np.ndarray:
    """The mean of each snapshot and its neighbours: one win rate of 120 captions is known to nine
    points, and the first that happens to be high would be taken for the crossing."""
    padded = np.array(values, dtype=float)
    return np.array([padded[max(0, i - 1) : i + 2].mean() for i in range(len(padded))])


def crossing(places: Sequence[float], values: Sequence[float], target: float) -> float | None:
    """Where the smoothed values first reach the target, between two places on a straight line of
    the logarithm; the first place where they begin above it, None where they never do."""
    found = smooth(values)
    above = np.flatnonzero(found >= target)
    if not len(above):
        return None
    index = int(above[0])
    if index == 0:
        return float(places[0])
    low, high = np.log(places[index - 1]), np.log(places[index])
    share = (target - found[index - 1]) / (found[index] - found[index - 1])
    return float(np.exp(low + share * (high - low)))


def curves(
    lines: Iterable[Line], stage: str = "race"
) -> dict[str, dict[tuple[str, int], list[Line]]]:
    """The snapshots of every run, by program, then by (rate, seed)."""
    found: dict[str, dict[tuple[str, int], list[Line]]] = {}
    for line in lines:
        if line["stage"] == stage:
            runs = found.setdefault(line["program"], {})
            runs.setdefault((line["rate"], line["seed"]), []).append(line)
    return found


def rates_of(run: Sequence[Line]) -> list[float]:
    """The win rates of a run's snapshots."""
    return [line["win_rate"]["value"] for line in run]


def best_rate(runs: dict[tuple[str, int], list[Line]]) -> str:
    """The learning rate whose win rate is highest in the mean over the snapshots, which lie evenly
    on the logarithm of time: early quality counts as late one does."""
    means = {rate: float(np.mean(rates_of(run))) for (rate, _), run in runs.items()}
    return max(means, key=lambda rate: means[rate])


def geometric(values: dict[int, float]) -> dict[str, Any]:
    """The geometric mean over seeds, with its interval by the logarithms."""
    found = clustered_mean([math.log(v) for v in values.values()], list(values))
    interval = [math.exp(edge) for edge in found.as_dict()["interval"]] if len(values) > 1 else None
    return {"value": math.exp(found.value), "interval": interval}


def reached(runs: dict[tuple[str, int], list[Line]], target: float, unit: str) -> dict[str, Any]:
    """When the runs of a program reach a win rate: the value of every seed that does, their
    geometric mean where all do, and how many there are."""
    times = {
        seed: crossing([line[unit] for line in run], rates_of(run), target)
        for (_, seed), run in runs.items()
    }
    there = {seed: time for seed, time in times.items() if time is not None}
    mean = geometric(there) if len(there) == len(times) and there else None
    early = [seed for (_, seed), run in runs.items() if smooth(rates_of(run))[0] >= target]
    return {"seeds": there, "of": len(times), "mean": mean, "before_the_first": len(early)}


def quotient(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any] | None:
    """How many times as long the other takes, over the seeds at which both arrive; None unless
    all do."""
    both = {
        seed: theirs["seeds"][seed] / time
        for seed, time in ours["seeds"].items()
        if seed in theirs["seeds"]
    }
    whole = len(both) == ours["of"] == theirs["of"] and both
    return geometric(both) if whole else None


def step_seconds(last: Sequence[Line]) -> float | None:
    """Seconds of a step, the median over runs, by their last snapshots; what comes before the end
    of the first step is left out. None where there is one step only."""
    paces = [
        (line["seconds"] - line["setup"]) / (line["step"] - 1) for line in last if line["step"] > 1
    ]
    return float(np.median(paces)) if paces else None


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return float(np.mean(values)) if values else None


def figures(lines: Iterable[Line]) -> dict[str, Any]:
    """All figures of one task, by program: what was chosen, how many steps a second, and the way
    to every target."""
    found: dict[str, Any] = {}
    for program, runs in curves(lines).items():
        last = [run[-1] for run in runs.values()]
        # Held-out pairs are scored by the last weights, which may not be judged yet.
        on_pairs = [line for line in last if "implicit_accuracy" in line]
        found[program] = {
            "rate": next(iter(runs))[0],
            "seeds": len(runs),
            "setup": float(np.median([line["setup"] for line in last])),
            "step_seconds": step_seconds(last),
            "last_win_rate": float(np.mean([line["win_rate"]["value"] for line in last])),
            "last_accuracy": mean([one["implicit_accuracy"]["value"] for one in on_pairs]),
            "last_winners_error": mean([one["winners_error"] for one in on_pairs]),
            "targets": {
                f"{target:.0%}": {unit: reached(runs, target, unit) for unit in UNITS}
                for target in TARGETS
            },
        }
    return found
