"""eval.jsonl, what was measured on held-out rows and when, and what follows: which step was the
best, whether its weights are kept, whether the run ends early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator

from diffdpo.engine.journal import Journal
from diffdpo.engine.settings import TrainSettings

FILE = "eval.jsonl"
Line = Mapping[str, Any]


class Measures(Protocol):
    """What measures, or samples, during training."""

    def due(self, done: int) -> bool:
        """Whether ``measure`` is to be called after step ``done``."""
        ...

    def measure(self, done: int) -> dict[str, Any] | None:
        """Figures on held-out rows, the same on all processes; None of what only samples."""
        ...

    def final(self, done: int) -> None:
        """Called at the end of a run that was not stopped, with the weights of its result in place,
        which are those of step ``done``."""
        ...


class Several:
    """Measures one after the other, of which at most one gives figures."""

    def __init__(self, parts: Sequence[Measures]) -> None:
        self.parts = parts

    def due(self, done: int) -> bool:
        """Whether one of them is due."""
        return any(part.due(done) for part in self.parts)

    def measure(self, done: int) -> dict[str, Any] | None:
        """Let those that are due measure."""
        found = [part.measure(done) for part in self.parts if part.due(done)]
        return next((figures for figures in found if figures), None)

    def final(self, done: int) -> None:
        """The end of each."""
        for part in self.parts:
            part.final(done)


@dataclass(frozen=True)
class Wish:
    """What a measurement asks of the run: a checkpoint of this very step, and to end."""

    save: bool = False
    end: bool = False


NOTHING = Wish()


class Evals:
    """The held-out figures of a run so far."""

    def __init__(
        self,
        settings: TrainSettings,
        accelerator: Accelerator,
        notice: Callable[[str], None],
    ) -> None:
        self.settings, self.accelerator, self.notice = settings, accelerator, notice
        self.journal = Journal(Path(settings.output_dir) / FILE)
        self.lines: list[Line] = []

    def begin(self, done: int) -> Wish:
        """Go on after step ``done``: later lines are dropped, for the run writes them again."""
        self.lines = [line for line in self.journal.read() if line["step"] <= done]
        self.accelerator.wait_for_everyone()  # all have read before the file is shortened
        if self.accelerator.is_main_process and self.journal.path.exists():
            self.journal.keep_until(done)
        return Wish(end=self.in_vain())

    def has(self, done: int) -> bool:
        """Whether step ``done`` was measured."""
        return any(line["step"] == done for line in self.lines)

    def add(self, done: int, figures: Mapping[str, Any]) -> Wish:
        """Write what was measured at step ``done``; returns what follows from it."""
        line = {"step": done, **figures}
        self.lines.append(line)
        if self.accelerator.is_main_process:
            self.journal.append([line])
        plain = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
        self.accelerator.log(plain, step=done)
        if not self.settings.keep_best:
            return NOTHING
        if self.in_vain():
            patience = self.settings.early_stopping_patience
            self.notice(
                f"stops early  step {done}: {patience} measurements without a better"
                f" {self.metric} than that of step {self.best()}"
            )
            return Wish(save=True, end=True)
        return Wish(save=self.best() == done)

    @property
    def metric(self) -> str:
        """The figure by which steps are compared."""
        return metric_name(self.settings.metric_for_best_model)

    def best(self, steps: Sequence[int] | None = None) -> int | None:
        """The step of the best figure, the earliest of equals, among ``steps`` where given; None
        where nothing was measured."""
        lines = [line for line in self.lines if steps is None or line["step"] in steps]
        return best_of(lines, self.metric)

    def spared(self) -> int | None:
        """The step whose checkpoint is kept however many are allowed; None where none is."""
        return self.best() if self.settings.keep_best else None

    def in_vain(self) -> bool:
        """Whether as many measurements as the patience allows were no better than one before."""
        patience, best = self.settings.early_stopping_patience, self.best()
        if not self.settings.keep_best or patience is None or best is None:
            return False
        return sum(line["step"] > best for line in self.lines) >= patience


def metric_name(name: str) -> str:
    """A figure's name in eval.jsonl, with or without its beginning given."""
    return f"eval_{name.removeprefix('eval_')}"


def best_of(lines: Sequence[Line], metric: str) -> int | None:
    """The step of the line with the best ``metric``, the earliest of equals; None of no lines."""
    sign = 1 if metric.endswith("loss") else -1
    known = [line for line in lines if not math.isnan(line.get(metric, math.nan))]
    if not known:
        return None
    best = min(known, key=lambda line: (sign * line[metric], line["step"]))
    return int(best["step"])
