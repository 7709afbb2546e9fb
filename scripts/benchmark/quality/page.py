"""The race's page: a table a task, and a picture of all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from diffdpo.report.plots import as_png, figure
from scripts.benchmark.quality.figures import (
    TARGETS,
    UNITS,
    Line,
    curves,
    figures,
    quotient,
    rates_of,
    smooth,
)
from scripts.benchmark.quality.tasks import TASKS
from scripts.benchmark.tables import table

INTRODUCTION = """Seconds run from a program's first line, its own loading and encoding included;
the clock stands still while weights are written, and they are judged afterwards by one judge: a
picture of each caption beside the base model's at the same seed. The win rate is the mean of a
snapshot and its two neighbours; between snapshots it is read off a straight line over the
logarithm of time. Means over seeds are geometric, with 95 % intervals; where a seed does not
arrive, the number that does."""


def by_task(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """The snapshots of each task, in the table's order."""
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line["task"], []).append(line)
    return {name: found[name] for name in TASKS if name in found}


def markdown(lines: Iterable[Line], facts: Mapping[str, Any]) -> str:
    """The whole page."""
    settings = ", ".join(f"{name} {value}" for name, value in facts.items())
    sections = ["# The race to quality", f"{settings}.", INTRODUCTION]
    for name, own in by_task(lines).items():
        found = figures(own)
        text = task_table(found) if found else "No run of the race is judged yet."
        sections.append(f"## {name}: {TASKS[name].what}\n\n{text}")
    return "\n\n".join(sections) + "\n"


def task_table(found: Mapping[str, Any]) -> str:
    """A column a program: the way to every target, and over that of our first."""
    columns = [dict(figures_of(own, found.get("ours"))) for own in found.values()]
    return table(
        ("", *found), [(name, *(column[name] for column in columns)) for name in columns[0]]
    )


def figures_of(own: Mapping[str, Any], ours: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    """The names and figures of a program, as they stand in its column."""
    step = own["step_seconds"]
    yield "learning rate, by the grid", own["rate"]
    yield "seeds", str(own["seeds"])
    yield "seconds to the first step", f"{own['setup']:.1f}"
    yield "seconds a step", "–" if step is None else f"{step:.2f}"
    for target, way in own["targets"].items():
        for unit, word in zip(UNITS, ("seconds", "steps"), strict=True):
            yield f"{word} to {target}", arrival(way[unit], unit)
        beside = quotient(ours["targets"][target]["seconds"], way["seconds"]) if ours else None
        yield f"seconds to {target}, over ours", ratio(beside)
    yield "last win rate", f"{own['last_win_rate']:.1%}"
    accuracy, error = own["last_accuracy"], own["last_winners_error"]
    yield "last implicit accuracy", "–" if accuracy is None else f"{accuracy:.1%}"
    yield "rise of the winner's error", "–" if error is None else f"{error:+.4f}"


def arrival(way: Mapping[str, Any], unit: str) -> str:
    """A mean with its interval, or how many seeds arrive."""
    if way["mean"] is None:
        return f"{len(way['seeds'])} of {way['of']} seeds"
    mean, interval = way["mean"]["value"], way["mean"]["interval"]
    # A first snapshot that is above the target says no more than that.
    least = "≤ " if way["before_the_first"] else ""
    span = f" [{interval[0]:.0f}, {interval[1]:.0f}]" if interval else ""
    return f"{least}{mean:.0f}{span}"


def ratio(found: Mapping[str, Any] | None) -> str:
    """A quotient with its interval."""
    if found is None:
        return "–"
    span = found["interval"]
    return f"{found['value']:.1f}x" + (f" [{span[0]:.1f}, {span[1]:.1f}]" if span else "")


def chart(lines: Iterable[Line]) -> bytes:
    """Win rate over seconds, a panel a task: the mean over seeds as a line, all of them as a
    band. As PNG."""
    tasks = by_task(lines)
    page, axes = figure(max(1, len(tasks)), 1, 8, 1 + 2.6 * max(1, len(tasks)))
    for axis, (name, own) in zip(axes.flat, tasks.items(), strict=False):
        for program, runs in curves(own).items():
            draw(axis, program, list(runs.values()))
        for target in TARGETS:
            axis.axhline(target, color="grey", linewidth=0.5, linestyle="--")
        axis.set_xscale("log")
        axis.set_title(f"{name}: {TASKS[name].what}", fontsize=9)
        axis.set_ylabel("win rate", fontsize=9)
        axis.tick_params(labelsize=8)
        if axis.has_data() and axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    axes.flat[-1].set_xlabel("seconds of training, loading included", fontsize=9)
    return as_png(page)


def draw(axis: Any, program: str, runs: list[list[Line]]) -> None:
    """One program: snapshots are at the same moments in every run, up to a step."""
    length = min(map(len, runs))
    rates = np.stack([smooth(rates_of(run))[:length] for run in runs])
    seconds = np.exp(
        np.mean([[np.log(line["seconds"]) for line in run[:length]] for run in runs], axis=0)
    )
    (line,) = axis.plot(seconds, rates.mean(axis=0), "o-", markersize=3, linewidth=1.2,
                        label=program)  # fmt: skip
    axis.fill_between(seconds, rates.min(axis=0), rates.max(axis=0), alpha=0.15,
                      color=line.get_color(), linewidth=0)  # fmt: skip
