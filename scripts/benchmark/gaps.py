"""The time of a step that no network fills: between its forward passes, its backward passes and the
optimizer.

On a card by the card's own clock, which goes on while the host falls behind: what is counted is
time in which the card waits, or does small things. On a CPU by the wall clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from scripts.benchmark.before_fit import before_fit


class Mark:
    """A moment, on the clock of what computes: of the card, or ``clock``."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.event = torch.cuda.Event(enable_timing=True) if torch.cuda.is_available() else None
        self.second = clock()
        if self.event is not None:
            self.event.record()

    def since(self, earlier: Mark) -> float:
        """Seconds between two moments, once the card has come so far."""
        if self.event is None or earlier.event is None:
            return self.second - earlier.second
        return float(earlier.event.elapsed_time(self.event)) / 1000


class Gaps:
    """Marks beginning and end of all that a network does, in every step of a trainer."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.spans: list[tuple[Mark, Mark]] = []
        self.ends: list[tuple[Mark, int]] = []  # of each step, and how many spans there were
        self.begun = self.mark()
        self.hooks: list[Any] = []

    def mark(self) -> Mark:
        """This moment."""
        return Mark(self.clock)

    def close(self) -> None:
        """Take the hooks of the optimizers away."""
        for hook in self.hooks:
            hook.remove()

    def watch(self) -> None:
        """Put the marks into the next trainer that starts to fit."""
        before_fit(self.put_into)

    def put_into(self, trainer: Any) -> None:
        """Put the marks round prediction, backward pass and optimizer."""
        backbone, accelerator = trainer.task.backbone, trainer.accelerator
        backbone.predict = self.around(backbone.predict)
        accelerator.backward = self.around(accelerator.backward)
        self.hooks.append(register_optimizer_step_pre_hook(self.before_optimizer))
        self.hooks.append(register_optimizer_step_post_hook(self.after_optimizer))
        if torch.cuda.is_available():
            # Of the steps, not of what was stored before them.
            torch.cuda.reset_peak_memory_stats()

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same function between two marks."""

        def marked(*args: Any, **options: Any) -> Any:
            with self.span():
                return call(*args, **options)

        return marked

    @contextmanager
    def span(self) -> Iterator[None]:
        """Marks its block."""
        begin = self.mark()
        yield
        self.spans.append((begin, self.mark()))

    def before_optimizer(self, *_: Any) -> None:
        """The optimizer's time is not the host's."""
        self.begun = self.mark()

    def after_optimizer(self, *_: Any) -> None:
        """A step ends here."""
        self.spans.append((self.begun, self.mark()))
        self.ends.append((self.spans[-1][1], len(self.spans)))

    def measure(self) -> dict[str, float]:
        """Seconds a step outside of the networks, and their share, over the steps since the last
        call but the first, which waited for its turn."""
        ends, spans = self.ends[:], self.spans[:]
        self.ends.clear()
        self.spans.clear()
        if len(ends) < 2:
            return {}
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        (first, begin), (last, end) = ends[0], ends[-1]
        whole, steps = last.since(first), len(ends) - 1
        busy = sum(there.since(here) for here, there in spans[begin:end])
        return {"host": (whole - busy) / whole, "host_wall": (whole - busy) / steps}
