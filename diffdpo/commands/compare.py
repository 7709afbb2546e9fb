"""Several runs on one page: curves, settings, figures, pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.commands.compare_settings import CompareSettings
from diffdpo.engine.console import say
from diffdpo.engine.files import write_atomically
from diffdpo.engine.labels import labels
from diffdpo.engine.run_config import recorded
from diffdpo.engine.run_folder import writable
from diffdpo.errors import UserError, not_installed, short
from diffdpo.metrics.intervals import Estimate
from diffdpo.report.evaluation import writing
from diffdpo.report.page import METRICS, Report, read_metrics
from diffdpo.report.plots import overlaid_curves, points

LAST = 20  # records of which a mean is shown: a single one is one batch
# Settings that say where a run is, not what it does.
PLACES = {"output_dir", "logging_dir", "report_to", "tracker_name", "resume_from_checkpoint"}
# The metrics of the table, where runs have them.
METRIC_NAMES = ["loss", "rewards/accuracies", "rewards/margins", "error/policy_chosen"]
METRIC_NAMES += ["error/policy_rejected", "grad_norm", "pairs_per_second"]
# Figures of both kinds of evaluation, with how they are shown.
FIGURES = ("win_rate", "implicit_accuracy", "difference", "kl")


@dataclass(frozen=True)
class Run:
    """What a run has left behind."""

    label: str
    folder: Path
    settings: Mapping[str, Any]
    records: list[dict[str, Any]]
    evaluation: Mapping[str, Any]  # empty where it was not evaluated
    sheet: Path | None

    @property
    def steps(self) -> int:
        """The last step that was recorded."""
        return self.records[-1]["step"] if self.records else 0

    def means(self) -> dict[str, float]:
        """The mean of each metric over the last records."""
        last = self.records[-LAST:]
        found = {name: points(last, name)[1] for name in METRIC_NAMES}
        return {name: sum(values) / len(values) for name, values in found.items() if values}

    def figures(self) -> dict[str, Estimate]:
        """The figures of the evaluation."""
        return figures_of(self.evaluation)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "run": str(self.folder),
            "steps": self.steps,
            "last": self.means(),
            "reward": self.evaluation.get("reward"),
            "evaluation": {name: value.as_dict() for name, value in self.figures().items()},
        }


def main(settings: CompareSettings) -> int:
    """Read, print, write; returns the exit code."""
    folder = writable(settings.output_dir)
    names = labels(settings.runs)
    runs = [read_run(name, Path(run)) for name, run in zip(names, settings.runs, strict=True)]
    differing = differences(runs)
    say(*(f"left out     {line}" for line in not_installed("matplotlib")))
    for run in runs:
        rate = run.figures().get("win_rate")
        told = f", win rate {rate.percent()} by {run.evaluation.get('reward')}" if rate else ""
        say(f"{run.label:<12} {run.steps:,} steps, {', '.join(shown(run.means()))}{told}")
    content = {"runs": {run.label: run.as_dict() for run in runs}, "settings": differing}
    report = Report(f"{len(runs)} runs: {short(', '.join(names), 200)}")
    compose(report, runs, differing)
    with writing(folder):
        write_atomically(folder / "compare.json", json.dumps(content, indent=2) + "\n")
        report.save(folder / "report.html")
    say(f"report       {folder / 'report.html'}")
    return 0


def read_run(label: str, folder: Path) -> Run:
    """What is in a run's folder, and the evaluation that lies in or above it.

    Raises UserError for a file that cannot be read.
    """
    settings, records = recorded(folder), read_metrics(folder / METRICS)
    evaluation, place = evaluation_of(folder)
    sheet = place / "sheet.png" if place else None
    there = sheet if sheet is not None and sheet.is_file() else None
    return Run(label, folder, settings, records, evaluation, there)


def evaluation_of(run: Path) -> tuple[dict[str, Any], Path | None]:
    """The evaluation of a run and its folder: the run's own, or the one above it, as the demos
    leave it, where it is of this run and no other.

    Raises UserError for a file that holds none.
    """
    for place in (run, run.parent):
        path = place / "evaluation.json"
        if not path.is_file():
            continue
        try:
            found = part_of(json.loads(path.read_text()), run)
            figures_of(found), control_of(found)  # here, where the file can be named
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: no evaluation ({short(repr(error))}); move it away"
            ) from error
        if found:
            return found, place
    return {}, None


def part_of(content: dict[str, Any], run: Path) -> dict[str, Any]:
    """The part of an evaluation that is about a run; empty where it is about others."""
    others = {Path(one["run"]).resolve(): one for one in content.get("policies", {}).values()}
    if Path(str(content["policy"])).resolve() == run.resolve():
        return content
    if one := others.get(run.resolve()):
        reward = content.get("reward")  # texts may be judged by none
        own = one["rewards"][reward] if reward else {}
        top = {name: figure for name, figure in own.items() if name in content}
        return {**one, **top, "reward": reward}
    return {}


def figures_of(evaluation: Mapping[str, Any]) -> dict[str, Estimate]:
    """The figures of an evaluation that a table shows, by name."""
    found = {name: evaluation.get(name) for name in FIGURES}
    return {name: Estimate.from_dict(value) for name, value in found.items() if value}


def control_of(evaluation: Mapping[str, Any]) -> float | None:
    """What an implicit accuracy comes to by difficulty alone; None where that is not known."""
    control = (evaluation.get("implicit_accuracy") or {}).get("by_difficulty")
    return float(control["accuracy"]) if control else None


def differences(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """The settings in which runs differ, by name, with the value of each run that has one."""
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    found = {}
    for name in names:
        values = [json.dumps(run.settings.get(name), sort_keys=True, default=str) for run in runs]
        if name not in PLACES and len(set(values)) > 1:
            found[name] = {run.label: run.settings[name] for run in runs if name in run.settings}
    return found


def shown(means: Mapping[str, float]) -> list[str]:
    """Metrics in a few words each."""
    brief = {"loss": "loss", "rewards/accuracies": "accuracy", "rewards/margins": "margin"}
    return [f"{word} {means[name]:.4g}" for name, word in brief.items() if name in means]


def compose(
    report: Report, runs: Sequence[Run], differing: Mapping[str, Mapping[str, Any]]
) -> None:
    """Fill the page."""
    names = [run.label for run in runs]
    evaluations(report, runs)
    report.section("End of training", f"Means of the last {LAST} records.")
    kept = [name for name in METRIC_NAMES if any(name in run.means() for run in runs)]
    rows = [[run.label, str(run.steps), *(number(run.means().get(name)) for name in kept)]
            for run in runs]  # fmt: skip
    report.table(["run", "steps", *kept], rows)
    report.section("Settings that differ", "All others are equal.")
    rows = [[name, *(text_of(values, label) for label in names)]
            for name, values in differing.items()]  # fmt: skip
    report.table(["setting", *names], rows, numbers=False)
    if curves := {run.label: run.records for run in runs if run.records}:
        report.section("Training", "Running means of the same metrics, one line a run.")
        report.plot(lambda: overlaid_curves(curves), "training curves of all runs")
    sheets = [(run.label, run.sheet.read_bytes()) for run in runs if run.sheet is not None]
    if sheets:
        report.section("Pictures", "The sheets of the evaluations.")
        report.pictures(sheets)


def evaluations(report: Report, runs: Sequence[Run]) -> None:
    """The figures of the evaluations that lie beside the runs."""
    if not any(run.evaluation for run in runs):
        report.section("Evaluations", "None lies in a run's folder, or in the one above it.")
    else:
        report.section("Evaluations", "Against each run's own reference; 95 % intervals.")
        rows = [
            [run.label, *figure_cells(run), str(run.evaluation.get("reward") or "")] for run in runs
        ]
        report.table(["run", *(name.replace("_", " ") for name in FIGURES), "by"], rows)
    report.notes(["Win rates between policies: diffdpo evaluate --policy RUN RUN."])


def figure_cells(run: Run) -> list[str]:
    """A cell for each of ``FIGURES``; that of an implicit accuracy has its control as well."""
    cells, figures = [], run.figures()
    control = control_of(run.evaluation)
    for name in FIGURES:
        one = figures.get(name)
        if one is None:
            cells.append("")
        elif name in ("win_rate", "implicit_accuracy"):
            beside = control if name == "implicit_accuracy" else None
            told = "" if beside is None else f"; {100 * beside:.1f} % by difficulty alone"
            cells.append(one.percent() + told)
        else:
            cells.append(f"{one.value:.3g} [{one.interval[0]:.3g}, {one.interval[1]:.3g}]")
    return cells


def number(value: float | None) -> str:
    """A number in four digits; '' for none."""
    return "" if value is None or not math.isfinite(value) else f"{value:.4g}"


def text_of(values: Mapping[str, Any], label: str) -> str:
    """A setting as it is written; '–' where the run has no such setting."""
    return str(values[label]) if label in values else "–"
