"""One run of the race: trained against the clock, its weights judged afterwards. What is done is
on the disk: a run that was stopped begins again, and judging goes on after the last snapshot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diffdpo.engine.files import write_atomically
from scripts.benchmark.contestant import Contestant
from scripts.benchmark.snapshots import Moments
from scripts.benchmark.subjects import Subject

TRAINED, JUDGED, WEIGHTS = "trained.json", "judged.jsonl", "weights"


@dataclass(frozen=True)
class Run:
    """Who trains what: ``stage`` is ``grid``, where rates are tried, or ``race``."""

    task: str
    stage: str
    program: str
    rate: str
    seed: int

    def folder(self, work: Path) -> Path:
        """Where the run is kept."""
        return work / self.task / f"{self.stage}-{self.program}-{self.rate}-{self.seed}"


def train(run: Run, work: Path, subject: Subject, moments: Moments, threads: int) -> None:
    """Train in a process of its own, unless that is done. Raises Failed where the program fails."""
    folder = run.folder(work)
    if (folder / TRAINED).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own = replace(moments, folder=str(folder / WEIGHTS))
    contestant = Contestant(subject, own, threads, folder, "run")
    try:
        contestant.hear()
        reports = list(until_done(contestant))
    finally:
        contestant.close()
    # What the program itself stored and wrote; its log stays.
    for name in ("runs", "caches", "hub", "compiled"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_atomically(folder / TRAINED, json.dumps(reports, indent=1) + "\n")


def until_done(contestant: Contestant) -> Iterator[dict[str, Any]]:
    """The reports of a run, the last one ``done``."""
    report = contestant.turn()
    yield report
    while report["kind"] != "done":
        report = contestant.hear()
        yield report


def judge(run: Run, work: Path, judged: Callable[[Path, bool], dict[str, Any]]) -> Iterator[str]:
    """Judge every snapshot that is not judged yet, a line of JSON each; yields a line that says
    what was found. Held-out pairs, which take longer than pictures, are scored by the last one
    alone. At the end the weights are deleted."""
    folder = run.folder(work)
    reports = json.loads((folder / TRAINED).read_text())
    snapshots = [report for report in reports if report["kind"] == "snapshot"]
    done = {line["step"] for line in lines_of(folder)}
    for report in snapshots:
        if report["step"] not in done:
            found = judged(Path(report["folder"]), report is snapshots[-1])
            own = {name: report[name] for name in ("step", "seconds", "cpu", "setup")}
            with (folder / JUDGED).open("a") as file:
                file.write(json.dumps({**asdict(run), **own, **found}) + "\n")
            share = found["win_rate"]["value"]
            yield (f"{run.task} {run.program} {run.rate} seed {run.seed}: step {own['step']},"
                   f" {own['seconds']:.0f} s, win rate {share:.1%}")  # fmt: skip
    shutil.rmtree(folder / WEIGHTS, ignore_errors=True)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The snapshots of a run that are judged, in their order. A last line that a stopped command
    left unfinished is judged again, and taken off the file."""
    path = folder / JUDGED
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_atomically(path, whole)
    return sorted(map(json.loads, whole.splitlines()), key=lambda line: line["step"])


def every_line(work: Path) -> list[dict[str, Any]]:
    """All judged snapshots of a race."""
    return [line for path in sorted(work.glob(f"*/*/{JUDGED}")) for line in lines_of(path.parent)]
