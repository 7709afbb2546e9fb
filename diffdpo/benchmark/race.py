"""Lets the subjects of a group take turns: all are loaded, one runs at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from diffdpo.benchmark.contestant import Contestant, Failed
from diffdpo.benchmark.gate import Schedule
from diffdpo.benchmark.results import Result
from diffdpo.benchmark.subjects import Subject

ONCE = Schedule(warmup=1, steps=1, repetitions=0)  # to the end of the first step
SERIES = ("wall", "cpu", "bare_wall", "bare_cpu")


class Race:
    """The subjects of one group and what they have reported."""

    def __init__(
        self, subjects: list[Subject], schedule: Schedule, threads: int, folder: Path, bar: tqdm
    ) -> None:
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

            builders = {s.name: enter(s, ONCE, f"{s.name}-first") for s in self.subjects if s.cache}
            field = {s.name: enter(s, self.schedule, s.name) for s in self.subjects}
            self.load([*builders.items(), *field.items()])
            for name, report in self.turns(builders, list(builders), last=True):
                self.results[name].cold_setup = report["setup"]
            for name, report in self.turns(field, list(field)):
                self.results[name].setup = report["setup"]
            self.measure(field)
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

    def measure(self, field: dict[str, Contestant]) -> None:
        """All repetitions."""
        for repetition in range(self.schedule.repetitions):
            # There and back, so that none is always early or always behind the same neighbour.
            order = list(field) if repetition % 2 == 0 else list(reversed(field))
            last = repetition == self.schedule.repetitions - 1
            for name, report in self.turns(field, order, last):
                result = self.results[name]
                for series in SERIES:
                    if series in report:
                        getattr(result, series).append(report[series])
                result.ram, result.gpu = report["ram"], report.get("gpu")
                result.operations = report.get("operations", {})

    def turns(
        self, contestants: dict[str, Contestant], order: list[str], last: bool = False
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """A turn for each that has not failed, with its report; after its ``last`` one it is seen
        off."""
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
        """Keep the reason; the others go on."""
        self.results[name].error = str(failure)
        self.bar.write(f"failed       {name}: {failure}")


def count_turns(subjects: list[Subject], schedule: Schedule) -> int:
    """How many turns there will be, loading included, for the progress bar."""
    return 2 * sum(subject.cache is not None for subject in subjects) + len(subjects) * (
        2 + schedule.repetitions
    )
