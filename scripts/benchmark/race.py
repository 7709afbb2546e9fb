"""Runs the subjects of a group in turns: all are loaded, one runs at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from scripts.benchmark.contestant import Contestant, Failed
from scripts.benchmark.gate import Schedule
from scripts.benchmark.results import Result
from scripts.benchmark.subjects import Subject

ONCE = Schedule(warmup=1, steps=1, repetitions=0)  # to the end of the first step
SERIES = ("wall", "cpu", "bare_wall", "bare_cpu", "host")


class Race:
    """The subjects of one group and their results."""

    def __init__(
        self,
        subjects: list[Subject],
        schedule: Schedule,
        threads: int,
        folder: Path,
        bar: tqdm,
        first: bool = True,
    ) -> None:
        """``first``: let another process fill each cache, so that the time of that is known."""
        self.first = first
        self.subjects, self.schedule, self.threads, self.folder, self.bar = (
            subjects,
            schedule,
            threads,
            folder,
            bar,
        )
        self.results = {subject.name: Result(subject.name, subject.group) for subject in subjects}

    def run(self) -> dict[str, Result]:
        """Load all at once, fill the caches, warm up, and measure in turn."""
        with ExitStack() as stack:

            def enter(subject: Subject, schedule: Schedule, run: str) -> Contestant:
                contestant = Contestant(subject, schedule, self.threads, self.folder, run)
                stack.callback(contestant.close)
                return contestant

            builders = {
                s.name: enter(s, ONCE, f"{s.name}-first")
                for s in self.subjects
                if s.cache and self.first
            }
            runners = {s.name: enter(s, self.schedule, s.name) for s in self.subjects}
            self.load([*builders.items(), *runners.items()])
            for name, report in self.turns(builders, list(builders), last=True):
                self.results[name].cold_setup = report["setup"]
            for name, report in self.turns(runners, list(runners)):
                self.results[name].setup = report["setup"]
            self.measure(runners)
        return self.results

    def load(self, contestants: list[tuple[str, Contestant]]) -> None:
        """Wait until every program is loaded."""
        self.bar.set_postfix_str("loading")
        for name, contestant in contestants:
            try:
                contestant.hear()
            except Failed as failure:
                self.give_up(name, failure)
            self.bar.update()

    def measure(self, runners: dict[str, Contestant]) -> None:
        """All repetitions."""
        for repetition in range(self.schedule.repetitions):
            # Backwards every other time, so that none is always early or behind the same one.
            order = list(runners) if repetition % 2 == 0 else list(reversed(runners))
            last = repetition == self.schedule.repetitions - 1
            for name, report in self.turns(runners, order, last):
                result = self.results[name]
                for series in SERIES:
                    if series in report:
                        getattr(result, series).append(report[series])
                result.ram, result.gpu = report["ram"], report.get("gpu")
                result.operations = report.get("operations", {})

    def turns(
        self, contestants: dict[str, Contestant], order: list[str], last: bool = False
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """One turn of each subject that has not failed, with its report. After its ``last`` turn
        its process is closed."""
        for name in order:
            self.bar.set_postfix_str(name)
            if self.results[name].error is None:
                try:
                    yield name, contestants[name].turn()
                except Failed as failure:
                    self.give_up(name, failure)
                if last:
                    contestants[name].close()
            self.bar.update()

    def give_up(self, name: str, failure: Failed) -> None:
        """Keep the reason of a failure; the others go on."""
        self.results[name].error = str(failure)
        self.bar.write(f"failed       {name}: {failure}")


def count_turns(subjects: list[Subject], schedule: Schedule, first: bool = True) -> int:
    """The number of turns, loading included, for the progress bar; ``first`` as in a race."""
    builders = sum(subject.cache is not None for subject in subjects) if first else 0
    return 2 * builders + len(subjects) * (2 + schedule.repetitions)
