"""A self-contained HTML page of headline, pictures, curves and tables."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from diffdpo.engine.files import write_atomically
from diffdpo.engine.journal import Journal
from diffdpo.engine.run_config import recorded
from diffdpo.engine.watch.evals import best_of, metric_name
from diffdpo.engine.watch.overtrained import overtrained_from, verdict
from diffdpo.engine.watch.signs import WINDOW, Drift
from diffdpo.errors import UserError, not_installed, short
from diffdpo.report.plots import held_out_curves, training_curves

METRICS, EVALS = "metrics.jsonl", "eval.jsonl"
TEMPLATES = Path(__file__).parent / "templates"


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The templates; every text that is put into them is escaped."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )


def block(name: str, *values: Any) -> str:
    """A piece of a page, a macro of ``blocks.html``, as HTML."""
    module: Any = templates().get_template("blocks.html").module
    return getattr(module, name)(*values)


def as_text(png: bytes) -> str:
    """A picture as it stands in a page: inside, so that it can be mailed or moved as one file."""
    return base64.b64encode(png).decode()


@dataclass
class Report:
    """A page that is composed from top to bottom; ``save`` writes it."""

    title: str
    blocks: list[str] = field(default_factory=list)

    def headline(self, text: str, note: str = "") -> None:
        """Add the result in large letters, and a line on what it means."""
        self.blocks.append(block("headline", text, note))

    def notes(self, lines: Sequence[str]) -> None:
        """Add lines of explanation."""
        self.blocks += [block("note", line) for line in lines]

    def section(self, title: str, note: str = "") -> None:
        """Add a heading with a line of explanation."""
        self.blocks.append(block("section", title, note))

    def picture(self, png: bytes, alt: str) -> None:
        """Add a PNG."""
        self.blocks.append(block("picture", as_text(png), alt))

    def pictures(self, items: Sequence[tuple[str, bytes]]) -> None:
        """Add PNGs side by side, each with its title; below each other on a narrow screen."""
        self.blocks.append(block("pictures", [(title, as_text(png)) for title, png in items]))

    def plot(self, draw: Callable[[], bytes], alt: str) -> None:
        """Add what ``draw`` draws, or the line that says what drawing needs where it is missing."""
        if missing := not_installed("matplotlib"):
            self.notes(missing[:1])
        else:
            self.picture(draw(), alt)

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True
    ) -> None:
        """Add a table, with text in its first column and, unless told otherwise, numbers, aligned
        to the right, in the others.

        Raises ValueError where a row is longer or shorter than the header.
        """
        if any(len(row) != len(header) for row in rows):
            raise ValueError(f"a row without {len(header)} cells, as the header has")
        self.blocks.append(block("table", header, rows, numbers))

    def code(self, text: str) -> None:
        """Add settings or commands as plain text."""
        self.blocks.append(block("code", text))

    def about_run(self, run: Path, settings: Mapping[str, object]) -> None:
        """Add the curves and settings of a training run, if any, and those of this evaluation."""
        own, lines = recorded(run), read_metrics(run / EVALS)
        by, share = metric_name(own.get("metric_for_best_model", "loss")), own.get("drift_share")
        over = overtrained_from(lines, by)
        if records := read_metrics(run / METRICS):
            self.section("Training", training_note(records) + drift_note(records, share))
            self.plot(lambda: training_curves(records, over, share), "training curves")
        if lines:
            self.section("Held out, during training", held_out_note(lines, by))
            self.plot(lambda: held_out_curves(lines, over), "held-out curves")
        self.section("Settings")
        if (run / "config.yaml").is_file():
            self.code((run / "config.yaml").read_text(errors="replace"))
        self.code(json.dumps(settings, indent=2, ensure_ascii=False))

    def save(self, path: Path) -> None:
        """Write the page to ``path``."""
        page = templates().get_template("page.html").render(title=self.title, blocks=self.blocks)
        write_atomically(path, page)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics.jsonl; none where there is no such file.

    Raises UserError where a line is no record: another program wrote it, or it is damaged.
    """
    try:
        records = Journal(path).read()
    except (OSError, ValueError) as error:  # of JSON and of UTF-8 as well
        raise UserError(f"{path}: cannot be read ({short(error)}); move it away") from error
    for line, record in enumerate(records, start=1):
        if not isinstance(record, dict) or not isinstance(record.get("step"), int):
            raise UserError(f"{path}, line {line}: no record of a step; move the file away")
    return records


def training_note(records: Sequence[Mapping[str, Any]]) -> str:
    """What the curves show: how many steps, which, how fast, and how they are drawn."""
    first, last = records[0]["step"], records[-1]["step"]
    speeds = [record.get("pairs_per_second") for record in records]
    known = [speed for speed in speeds if isinstance(speed, (int, float)) and speed > 0]
    # The mean over time: steps have equal numbers of pairs.
    pace = f" {len(known) / sum(1 / speed for speed in known):.3g} pairs a second;" if known else ""
    return (
        f"{len(records)} records, steps {first} to {last};{pace} thin lines are single records,"
        " thick ones running means."
    )


def drift_note(records: Sequence[Mapping[str, Any]], share: float | None) -> str:
    """How far the policy's error on winners is above the reference's at the end, and the step from
    which on it was told; empty where that was not measured."""
    known = [(one["step"], drift) for one in records if (drift := Drift.from_metrics(one))]
    if not known:
        return ""
    line = f" Over the last {WINDOW} steps the policy's error on winners is {known[-1][1]} above"
    line += " the reference's"
    told = [step for step, drift in known if share is not None and drift.low > share]
    return f"{line}; surely above {share:.0%} since step {told[0]}." if told else f"{line}."


def held_out_note(lines: Sequence[Mapping[str, Any]], by: str) -> str:
    """What was measured on rows kept out of training: how often, which step was the best by a
    figure, and whether the run went on too long."""
    best = best_of(lines, by)
    parts = [f"{len(lines)} measurements; the best by {by} is that of step {best}."]
    return " ".join([*parts, *(f"{line[0].upper()}{line[1:]}." for line in verdict(lines, by))])
