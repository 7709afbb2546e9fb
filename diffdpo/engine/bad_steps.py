"""Steps whose loss or gradient is not finite: they are not taken, and too many in a row end a run.

The step counter goes on, so that every later step meets the pairs and draws that it would have met.
Weights and the optimizer's moments stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from diffdpo.engine.batches import Stream
from diffdpo.engine.finite import names_not_finite
from diffdpo.errors import SharedError

JUDGED = ("loss", "grad_norm")
SHOWN_ROWS = 8  # in a line; metrics.jsonl has all


def all_finite(losses: Tensor, norm: Tensor, accelerator: Accelerator) -> Tensor:
    """Whether a step's losses and the norm of its gradient are finite, as a tensor.

    It is the same on all processes: the norm is that of the exchanged gradient, and the losses are
    added up. They count for themselves, because a loss without value may have a gradient: a clamp's
    is 0.
    """
    bad: Tensor = accelerator.reduce((~losses.isfinite()).float().sum())
    return (bad == 0) & norm.isfinite()


def take_step(optimizer: AcceleratedOptimizer, finite: Tensor) -> None:
    """Step the optimizer if the step's numbers are ``finite``, else leave everything as it is."""
    inner: Any = optimizer.optimizer
    if optimizer.scaler is not None:
        optimizer.step()  # the scaler of float16 losses leaves such steps out on its own
    elif getattr(inner, "_step_supports_amp_scaling", False):
        # Decided on the device, by the attribute through which torch.amp.GradScaler does it: the
        # host would have to wait for the number.
        inner.found_inf = (~finite).float()
        optimizer.step()
    elif finite:
        optimizer.step()


class BadSteps:
    """Names the steps that were not taken, and counts them until ``limit`` come in a row."""

    def __init__(
        self,
        limit: int,
        stream: Stream,
        effective_batch: int,
        accelerator: Accelerator,
        notice: Callable[[str], None],
    ) -> None:
        self.limit, self.stream, self.batch = limit, stream, effective_batch
        self.accelerator, self.notice = accelerator, notice
        self.in_a_row = self.count = 0
        # Of the last step, on this process, without gradient: (micro-batches, rows of each).
        self.losses = torch.zeros(1, 1)

    def judge(self, record: dict[str, Any]) -> None:
        """Count the step of a record, and note the pairs in it where the step was not taken."""
        bad = [name for name in JUDGED if not math.isfinite(record[name])]
        if not bad or self.backs_off(record):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.count += 1
        record["skipped_rows"] = rows = self.rows_of(record["step"])
        record["bad_rows"] = broken = self.broken(rows)
        what = ", ".join(f"{name} {record[name]}" for name in bad)
        where = f"rows {listed(rows)}"
        if broken:
            where = f"the loss of row {listed(broken)} (of {where})"
        self.notice(
            f"not taken    step {record['step']}: {what}; {where}"
            f" ({self.in_a_row} in a row, --max_bad_steps {self.limit})"
        )

    def broken(self, rows: list[int]) -> list[int]:
        """Those rows of the last step whose own loss is not finite; every process must ask."""
        finite = self.accelerator.gather(self.losses.isfinite().int()[None])  # (processes, m, B)
        # In the order of the stream: micro-batches first, then processes.
        flags = finite.transpose(0, 1).flatten().tolist()
        if len(flags) != len(rows):
            return []  # a loss of one's own may be one number for all rows
        return [row for row, ok in zip(rows, flags, strict=True) if not ok]

    def backs_off(self, record: dict[str, Any]) -> bool:
        """Whether the step was float16's search for a scale that keeps its gradients finite."""
        scaler = self.accelerator.scaler
        # With a scale of 1 there is nothing left to blame on it.
        return scaler is not None and math.isfinite(record["loss"]) and scaler.get_scale() > 1

    def rows_of(self, step: int) -> list[int]:
        """The rows of the data set that all processes together read in ``step``."""
        first = (step - 1) * self.batch
        return [self.stream.source(position) for position in range(first, first + self.batch)]

    def stop_after_too_many(self, left: Callable[[], str]) -> None:
        """Raise SharedError once ``limit`` steps in a row were not taken."""
        if self.in_a_row >= self.limit:
            raise SharedError(
                f"{self.in_a_row} steps in a row had a loss or gradient that is not finite"
                f" (--max_bad_steps); they were not taken, and {left()}; look at the rows"
                " named above, or begin again with a lower --learning_rate or beta"
            )

    def refuse_result(self, left: Callable[[], str]) -> None:
        """Raise SharedError for a run whose last step was not taken: its weights are in doubt."""
        raise SharedError(
            f"the run ended with {self.in_a_row} steps that were not taken, so no result is"
            f" written: nothing shows that its weights still work; {left()}; a few steps more"
            " (a larger --max_train_steps, --resume_from_checkpoint latest) may end well, or begin"
            " again with a lower --learning_rate or beta"
        )


def listed(rows: Sequence[int]) -> str:
    """Row numbers for a line, cut where there are many."""
    more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
    return ", ".join(map(str, rows[:SHOWN_ROWS])) + more


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor with a value that is not finite; None where all are."""
    return next(iter(names_not_finite(tensors)), None)


def training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    """All that a checkpoint would hold: the trained weights, and the optimizer's tensors."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield f"weight {name}", weight.detach()
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor):
                yield f"the optimizer's {name}", value
