"""The output of both evaluations: evaluation.json, report.html and a few printed lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffdpo.config import BaseSettings
from diffdpo.engine.console import say
from diffdpo.engine.files import write_atomically
from diffdpo.engine.run_config import run_of
from diffdpo.errors import UserError, not_installed
from diffdpo.report.page import METRICS, Report, read_metrics


def look_ahead(policy: str | Path) -> None:
    """Before the work begins: raise UserError where the run's records cannot be read, and say that
    the report will have no curves where matplotlib is missing."""
    read_metrics(Path(policy) / METRICS)
    say(*(f"left out     {line}" for line in not_installed("matplotlib")))


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns a disk that takes no more into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder}: the result could not be written ({error.strerror}); make room and run it"
            " again"
        ) from error


def publish(
    folder: Path,
    policy: str | Sequence[str],
    reference: str,
    settings: BaseSettings,
    figures: Mapping[str, Any],
    fill: Callable[[Report], None],
    lines: Sequence[str],
) -> None:
    """Print the result, and write evaluation.json and report.html.

    ``policy`` and ``reference`` are the names of what was compared; of several policies the first
    is on top. ``fill`` composes the upper part of the page; training curves and settings follow
    below.
    """
    say(*lines)  # first: these stay where the disk takes no more
    names = [policy] if isinstance(policy, str) else list(policy)
    written = asdict(settings)
    if written.get("policy") == names[:1]:  # a list of one is written as what it was before
        written["policy"] = names[0]
    content = {"policy": names[0], **figures, "settings": written}
    # What JSON does not know among the figures is an estimate, or an accuracy that holds some.
    text = json.dumps(content, indent=2, default=lambda figure: figure.as_dict())
    write_atomically(folder / "evaluation.json", text + "\n")
    page = folder / "report.html"
    report = Report(f"{', '.join(names)} against {reference}")
    fill(report)
    report.about_run(run_of(names[0]), written)
    report.save(page)
    say(f"report       {page}")
