"""The race to quality: ``python scripts/benchmark race``. Every program trains on the same pairs
for the same wall clock; judged is what it has learnt by then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from diffdpo.engine.console import say
from diffdpo.errors import UserError
from diffdpo.flags import flag
from scripts.benchmark.command import BenchmarkSettings
from scripts.benchmark.contestant import Failed
from scripts.benchmark.held_out import HeldOutSettings
from scripts.benchmark.machine import cores, describe
from scripts.benchmark.output import json_of_rows, write_result
from scripts.benchmark.peers import Peer, recognise
from scripts.benchmark.quality.figures import best_rate, curves
from scripts.benchmark.quality.judging import Judge
from scripts.benchmark.quality.page import by_task, chart, markdown
from scripts.benchmark.quality.runs import Run, every_line, judge, train
from scripts.benchmark.quality.tasks import (
    OUTSIDE,
    Task,
    chosen_tasks,
    common_flags,
    entrant,
    make_model,
    make_pairs,
    turn_order,
)
from scripts.benchmark.snapshots import Moments
from scripts.benchmark.work import claimed

GRID_SEED = 1000  # of the runs by which rates are chosen: none of the race
# What decides the figures: runs of other values are not mixed.
FIXED = (
    "seconds", "first", "snapshots", "captions", "draws", "num_inference_steps", "threads", "small"
)  # fmt: skip


@dataclass(frozen=True)
class RaceSettings(HeldOutSettings):
    """All flags of ``python scripts/benchmark race``."""

    tasks: list[str] = flag([], "tasks by name; default: all")
    programs: list[str] = flag([], "who takes part, by name; default: all of a task")
    peer_script: list[str] = field(
        default_factory=list,
        metadata=dict(BenchmarkSettings.__dataclass_fields__["peer_script"].metadata),
    )
    seconds: float = flag(300.0, "wall clock of a run, weights being written not counted", above=0)
    first: float = flag(10.0, "the first moment at which weights are written, in seconds", above=0)
    snapshots: int = flag(10, "moments, evenly on the logarithm of time", least=2)
    threads: int | None = flag(None, "CPU threads of every program; default: all cores", least=1)
    work_dir: str = flag("runs/race", "folder of data, runs and logs; the same command goes on")
    output: str | None = flag(None, "where .json, .md and .png go; default: race in --work_dir")

    def problems(self) -> list[str]:
        lines = super().problems()
        if self.first >= self.seconds:
            lines.append(
                f"--first {self.first:g} is not before the end, --seconds {self.seconds:g}"
            )
        if GRID_SEED in self.seeds:
            lines.append(f"--seeds {GRID_SEED}: is the seed by which rates are chosen")
        return lines

    @property
    def moments(self) -> Moments:
        """When weights are written, by a run in a folder of its own."""
        times = np.geomspace(self.first, self.seconds, self.snapshots).tolist()
        return Moments(times, "", steps=2 if self.small else None)


@dataclass(frozen=True)
class Races:
    """All that the runs of a race have in common."""

    settings: RaceSettings
    work: Path
    peers: list[Peer]

    def judge_of(self, task: Task, split: str) -> Judge:
        """The judge on the captions of one split."""
        return Judge(task, split, *self.settings.judged_on, self.work / task.name)

    def names(self, task: Task) -> list[str]:
        """Who takes part in a task."""
        wanted = self.settings.programs
        return [name for name in task.names(self.peers) if not wanted or name in wanted]

    def run(self, task: Task, run: Run, judged: Judge) -> None:
        """Train and judge one run, unless that is done."""
        self.train(task, run)
        for line in judge(run, self.work, judged.judge):
            tqdm.write(line)

    def train(self, task: Task, run: Run) -> None:
        """Train one run, unless that is done."""
        pairs = make_pairs(task, self.work / task.name / "pairs")
        model = make_model(task, self.work / "models" / Path(task.model).name)
        flags = common_flags(task, model, pairs, run.rate, run.seed)
        subject = entrant(task, run.program, self.peers, flags)
        train(run, self.work, subject, self.settings.moments, self.settings.threads or cores())

    def rate(self, task: Task, name: str) -> str:
        """The learning rate that the grid's runs chose. Raises Failed where they are not there."""
        if self.settings.small:
            return task.rates[-1]
        lines = by_task(every_line(self.work)).get(task.name, [])
        runs = curves(lines, "grid").get(name, {})
        if {rate for rate, _ in runs} != set(task.rates):
            raise Failed("its runs of the grid of learning rates did not finish")
        return best_rate(runs)

    def plan(self, task: Task) -> Iterator[tuple[str, str, int, str | None]]:
        """What is run, in order: the stage, who, the seed, and the rate where it is known."""
        names = self.names(task)
        if not self.settings.small:
            for rate in task.rates:
                yield from (("grid", name, GRID_SEED, rate) for name in names)
        for seed in self.settings.run_seeds:
            yield from (("race", name, seed, None) for name in turn_order(names, seed))


def main(settings: RaceSettings) -> int:
    """Choose rates, race, judge, write; returns 1 where a program failed."""
    chart([])  # raises UserError without matplotlib: now, and not after hours
    tasks = chosen_tasks(settings.tasks)
    peers = [recognise(name) for name in settings.peer_script]
    own = {name: asdict(settings)[name] for name in FIXED}
    check_programs(Races(settings, Path(), peers), tasks)
    work = claimed(settings.work_dir, own)
    races = Races(settings, work, peers)
    say(*(f"note         {note}" for peer in peers for note in peer.notes()))
    plans = {task.name: list(races.plan(task)) for task in tasks}
    runs = sum(map(len, plans.values()))
    length = "two steps" if settings.small else f"{settings.seconds:g} s"
    say(f"race         {runs} runs of {length} in {settings.work_dir}, then judged")
    failures = carry_out(races, tasks, plans, runs)
    write(settings, work)
    for line in failures:
        say(f"failed       {line}")
    return int(bool(failures))


def carry_out(
    races: Races, tasks: Sequence[Task], plans: dict[str, list[Any]], runs: int
) -> list[str]:
    """All runs, a task after the other; returns a line for each that failed."""
    failures = []
    with tqdm(total=runs, unit="run") as bar:
        for task in tasks:
            judges = {stage: races.judge_of(task, split)
                      for stage, split in (("grid", "validation"), ("race", "test"))}  # fmt: skip
            for stage, name, seed, rate in plans[task.name]:
                bar.set_postfix_str(f"{task.name} {stage} {name}")
                try:
                    run = Run(task.name, stage, name, rate or races.rate(task, name), seed)
                    races.run(task, run, judges[stage])
                except Failed as failure:
                    failures.append(f"{task.name} {stage} {name}, seed {seed}: {failure}")
                bar.update()
    return failures


def check_programs(races: Races, tasks: Sequence[Task]) -> None:
    """Raise UserError for a script or a program that takes part in no task."""
    for peer in races.peers:
        if not any(peer.kind in task.peers for task in tasks):
            reason = OUTSIDE.get(peer.kind, "name a task in which it does")
            raise UserError(
                f"--peer_script {peer.path.name}: {peer.kind}'s script takes part in none of the"
                f" tasks; {reason}"
            )
    known = list(dict.fromkeys(name for task in tasks for name in task.names(races.peers)))
    if unknown := [name for name in races.settings.programs if name not in known]:
        raise UserError(
            f"--programs {unknown[0]}: takes part in none of the tasks; known: {', '.join(known)}"
        )


def write(settings: RaceSettings, work: Path) -> None:
    """Write tables, figures and the picture of all that is judged."""
    lines = every_line(work)
    output = settings.output or str(work / "race")
    facts = describe(settings.threads or cores())
    facts |= {name: asdict(settings)[name] for name in FIXED if name != "threads"}
    text = markdown(lines, facts)
    write_result(output, json=json_of_rows(facts, lines), md=text, png=chart(lines))
    say(text, f"result       {output}.json, .md and .png")
