"""What a program may do while a run goes on: hear what is logged, measured and saved, and ask for a
checkpoint or for the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from diffdpo.engine.watch.evals import NOTHING, Wish
from diffdpo.errors import UserError, short

StepCallback = Callable[[dict[str, Any]], object]  # gets the record of a step


class Callback:
    """What is called while a run goes on; what a subclass does not define does nothing.

    ``on_log`` and ``on_evaluate`` are called on every process, with the same values, and may return
    a ``Wish``, which holds for all processes if one of them has it: ``Wish(save=True)`` for a
    checkpoint of the step that is done, ``Wish(end=True)`` for the end of the run, with a
    checkpoint and the result.
    """

    def on_log(self, record: Mapping[str, Any]) -> Wish | None:
        """A line of metrics.jsonl, ``step`` among its names; they come ``logging_steps`` at a
        time, in their order."""

    def on_evaluate(self, step: int, figures: Mapping[str, Any]) -> Wish | None:
        """The figures of a step on held-out rows, as in eval.jsonl."""

    def on_save(self, step: int, folder: Path) -> None:
        """A checkpoint is whole, on the first process alone; training has gone on meanwhile."""


class Callbacks:
    """The callbacks of a run, and what they wish for together. ``on_step`` gets the record of every
    step, and what it returns is not read."""

    def __init__(self, parts: Sequence[Callback] = (), on_step: StepCallback | None = None) -> None:
        """Raises UserError for what is no ``Callback``."""
        for part in parts:
            if not isinstance(part, Callback):
                kind = short(type(part).__name__)
                raise UserError(
                    f"callbacks: {kind} is no object of a subclass of diffdpo.Callback, whose"
                    " methods docs/notebook.md shows"
                )
        self.parts, self.on_step = parts, on_step
        self.wish = NOTHING  # of this process, since all of them last asked
        self.heard = False  # whether one of the callbacks has been called since, on every process
        self.ended = False

    def logged(self, record: dict[str, Any]) -> None:
        """A step's record was written."""
        if self.on_step:
            self.on_step(record)
        for part in self.parts:
            self.take(part.on_log(record), part)

    def evaluated(self, step: int, figures: Mapping[str, Any]) -> None:
        """Figures were written."""
        self.heard = bool(self.parts)
        for part in self.parts:
            self.take(part.on_evaluate(step, figures), part)

    def saved(self, step: int, folder: Path) -> None:
        """A checkpoint was written."""
        for part in self.parts:
            part.on_save(step, folder)

    def take(self, wish: Wish | None, part: Callback) -> None:
        """Add a wish to the others. Raises UserError for what is none."""
        if wish is None:
            return
        if not isinstance(wish, Wish):
            kind = short(type(part).__name__)
            raise UserError(
                f"callbacks: {kind} returned {short(repr(wish))}, no diffdpo.Wish and not None"
            )
        # What has ended can go on from where it did.
        self.wish = Wish(self.wish.save or wish.save or wish.end, self.wish.end or wish.end)

    def agreed(self, accelerator: Accelerator) -> Wish:
        """What one of the processes wishes for; all of them ask at the same step."""
        wish = self.wish
        if self.parts and accelerator.num_processes > 1:
            both = torch.tensor([float(wish.save), float(wish.end)], device=accelerator.device)
            save, end = (accelerator.reduce(both) > 0).tolist()
            wish = Wish(save, end)
        self.wish, self.heard, self.ended = NOTHING, False, self.ended or wish.end
        return wish
