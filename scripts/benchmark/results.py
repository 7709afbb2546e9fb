"""Measured figures and the arithmetic on them. Times are seconds per optimizer step, memory is in
MiB."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field


@dataclass
class Result:
    """One row: a figure for each repetition, or the error of the program."""

    name: str
    group: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    bare_wall: list[float] = field(default_factory=list)
    bare_cpu: list[float] = field(default_factory=list)
    setup: float | None = None  # seconds from the start of the program to the end of its first step
    cold_setup: float | None = None  # the same in a fresh folder, where everything is computed
    ram: float = 0.0
    gpu: float | None = None
    operations: dict[str, float] = field(default_factory=dict)  # shares of one more step, by kind
    error: str | None = None
    host: list[float] = field(default_factory=list)  # share of a step between network calls

    @property
    def step(self) -> float | None:
        """The median step, seconds."""
        return statistics.median(self.wall) if self.wall else None

    @property
    def build(self) -> float:
        """Seconds that only a first run spends: later runs read the stored values. 0 where nothing
        is stored."""
        if self.cold_setup is None or self.setup is None:
            return 0.0
        return max(0.0, self.cold_setup - self.setup)

    @property
    def peak(self) -> float:
        """Peak memory on the card where there is one, else resident."""
        return self.ram if self.gpu is None else self.gpu


@dataclass(frozen=True)
class Spread:
    """A median and the range it comes from; of quotients also that of the two fastest repetitions,
    which other load on the machine disturbs least."""

    median: float
    low: float
    high: float
    best: float | None = None


def spread(values: list[float]) -> Spread | None:
    """None where nothing was measured."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def quotient(above: list[float], below: list[float]) -> Spread | None:
    """The quotients of repetitions that ran one after the other, so that a slow minute of the
    machine cancels."""
    ratios = [a / b for a, b in zip(above, below, strict=False)]
    if not ratios:
        return None
    best = min(above) / min(below)
    return Spread(statistics.median(ratios), min(ratios), max(ratios), best)


def epoch_cost(result: Result, epochs: int, steps: int) -> float | None:
    """Seconds of ``epochs`` epochs of ``steps`` steps, with the time to fill the cache."""
    return None if result.step is None else result.build + epochs * steps * result.step


def break_even(result: Result, other: Result, steps: int) -> int | None:
    """The first epoch at whose end ``result`` has taken no more time than ``other``; None if there
    is none."""
    if result.step is None or other.step is None:
        return None
    extra, saved = result.build - other.build, steps * (other.step - result.step)
    if extra <= 0 and saved >= 0:
        return 1
    return max(1, math.ceil(extra / saved)) if saved > 0 else None
