"""A self-contained HTML page of headline, pictures, curves and tables."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffdpo.engine.files import write_atomically
from diffdpo.engine.journal import Journal
from diffdpo.errors import UserError, not_installed, short
from diffdpo.report.plots import training_curves

METRICS = "metrics.jsonl"
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1d1d1f;
  max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem}
h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #ddd}
.headline{font-size:1.9rem;font-weight:600;margin:.4rem 0} .note{color:#666}
img{max-width:100%;height:auto} table{border-collapse:collapse}
td,th{padding:.25rem .8rem;text-align:left;vertical-align:top;border-bottom:1px solid #eee}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
pre{background:#f6f6f7;padding:.8rem;overflow:auto;font-size:12px}
"""


@dataclass
class Report:
    """A page that is composed from top to bottom; ``save`` writes it."""

    title: str
    blocks: list[str] = field(default_factory=list)

    def headline(self, text: str, note: str = "") -> None:
        """Add the result in large letters, and a line on what it means."""
        self.blocks.append(
            f'<p class="headline">{html.escape(text)}</p><p class="note">{html.escape(note)}</p>'
        )

    def notes(self, lines: Sequence[str]) -> None:
        """Add lines of explanation."""
        self.blocks += [f'<p class="note">{html.escape(line)}</p>' for line in lines]

    def section(self, title: str, note: str = "") -> None:
        """Add a heading with a line of explanation."""
        self.blocks.append(f'<h2>{html.escape(title)}</h2><p class="note">{html.escape(note)}</p>')

    def picture(self, png: bytes, alt: str) -> None:
        """Add a PNG."""
        # Inside the page, so that it can be mailed or moved as one file.
        data = base64.b64encode(png).decode()
        self.blocks.append(f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">')

    def plot(self, draw: Callable[[], bytes], alt: str) -> None:
        """Add what ``draw`` draws, or the line that says what drawing needs where it is missing."""
        if missing := not_installed("matplotlib"):
            self.blocks.append(f'<p class="note">{html.escape(missing[0])}</p>')
        else:
            self.picture(draw(), alt)

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True
    ) -> None:
        """Add a table, with text in its first column and, unless told otherwise, numbers, aligned
        to the right, in the others."""

        def line(cells: Sequence[str], tag: str) -> str:
            marks = ["", *[' class="number"' if numbers else ""] * (len(cells) - 1)]
            inner = "".join(
                f"<{tag}{m}>{html.escape(c)}</{tag}>" for m, c in zip(marks, cells, strict=True)
            )
            return f"<tr>{inner}</tr>"

        body = "".join(line(row, "td") for row in rows)
        self.blocks.append(f"<table>{line(header, 'th')}{body}</table>")

    def code(self, text: str) -> None:
        """Add settings or commands as plain text."""
        self.blocks.append(f"<pre>{html.escape(text)}</pre>")

    def about_run(self, run: Path, settings: Mapping[str, object]) -> None:
        """Add the curves and settings of a training run, if any, and those of this evaluation."""
        if records := read_metrics(run / METRICS):
            self.section("Training", training_note(records))
            self.plot(lambda: training_curves(records), "training curves")
        self.section("Settings")
        if (run / "config.yaml").is_file():
            self.code((run / "config.yaml").read_text(errors="replace"))
        self.code(json.dumps(settings, indent=2))

    def save(self, path: Path) -> None:
        """Write the page to ``path``."""
        head = (
            f'<meta charset="utf-8"><title>{html.escape(self.title)}</title><style>{STYLE}</style>'
        )
        body = "\n".join(self.blocks)
        write_atomically(
            path,
            f"<!doctype html><html lang=en>{head}<h1>{html.escape(self.title)}</h1>{body}</html>\n",
        )


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
    """What the curves show: how many steps, which, and how they are drawn."""
    first, last = records[0]["step"], records[-1]["step"]
    return (
        f"{len(records)} records, steps {first} to {last}; thin lines are single records, thick"
        " ones running means."
    )
