"""Pauses any training program after chosen optimizer steps, reports their times, and waits for its
next turn.

PyTorch calls the same hook after every step of every optimizer, so the program needs no change. The
first step of a turn is not counted: it finds the processor's caches full of another program's data.
The last turn has one step more, which is profiled by kind of operation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TextIO

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from scripts.benchmark.memory import peak_memory
from scripts.benchmark.operations import Operations


class Stop(BaseException):
    """Ends the program after the measurement. Not an Exception, so that no handler of the program
    catches it."""


@dataclass(frozen=True)
class Schedule:
    """Optimizer steps before the first repetition, counted steps of each repetition, and
    repetitions."""

    warmup: int
    steps: int
    repetitions: int
    watch: ClassVar = "turns"  # a row of scripts.benchmark.worker.WATCHES

    @property
    def has_asides(self) -> bool:
        """Whether something is measured between turns."""
        return self.repetitions > 0

    @property
    def turn(self) -> int:
        """Optimizer steps of a repetition, the first of them not counted."""
        return 1 + self.steps

    @property
    def total(self) -> int:
        """Optimizer steps up to the last repetition's end."""
        return self.warmup + self.turn * self.repetitions


class Channel:
    """Sends each report as a line of JSON, and reads a line as permission to go on."""

    def __init__(self, out: TextIO, into: TextIO) -> None:
        self.out, self.into = out, into

    def tell(self, kind: str, **facts: Any) -> None:
        """Send a report."""
        self.out.write(json.dumps({"kind": kind, **facts}) + "\n")
        self.out.flush()

    def wait(self) -> None:
        """Block until told to go on. Raises Stop where the benchmark has closed the channel."""
        if not self.into.readline():
            raise Stop


def now() -> tuple[float, float]:
    """Wall and CPU seconds, after the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


class Gate:
    """Counts optimizer steps while its block lasts. ``aside`` is called between turns, outside the
    measured time; what it returns is added to the report."""

    def __init__(
        self, schedule: Schedule, channel: Channel, aside: Callable[[], dict[str, float]]
    ) -> None:
        self.schedule, self.channel, self.aside = schedule, channel, aside
        self.done, self.clock, self.setup = 0, now(), 0.0
        self.operations = Operations()
        self.last: dict[str, float] = {}  # what the last repetition will report

    def __enter__(self) -> Gate:
        self.handle = register_optimizer_step_post_hook(self.after_step)
        self.clock = now()
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def after_step(self, *_: Any) -> None:
        """The hook. Raises Stop after the last repetition."""
        self.done += 1
        if self.done == 1:
            self.setup = now()[0] - self.clock[0]
        past = self.done - self.schedule.warmup
        if past == 0:
            self.aside()  # warms up as well, and drops the draws of the warm-up
            self.report("warm", {"setup": self.setup})
        elif self.done > self.schedule.total:
            self.report("repetition", self.last, operations=self.operations.stop())
        elif past > 0 and past % self.schedule.turn == 1:
            self.clock = now()
        elif past > 0 and past % self.schedule.turn == 0:
            self.after_repetition()

    def after_repetition(self) -> None:
        """Report the times of the repetition; after the last one first profile one more step."""
        wall, cpu = (end - begin for begin, end in zip(self.clock, now(), strict=True))
        steps = self.schedule.steps
        facts = {"wall": wall / steps, "cpu": cpu / steps, **peak_memory(), **self.aside()}
        if self.done < self.schedule.total:
            self.report("repetition", facts)
        else:
            self.last = facts
            self.operations.start()

    def report(self, kind: str, facts: dict[str, float], **more: Any) -> None:
        """Send the figures, then wait for the next turn, or stop."""
        self.channel.tell(kind, **facts, **more)
        if self.done >= self.schedule.total:
            raise Stop
        self.channel.wait()
