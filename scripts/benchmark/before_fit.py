"""Reaches the trainer that a program makes inside itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffdpo.engine.trainer import Trainer


def before_fit(put_into: Callable[[Trainer], None]) -> None:
    """Do this with every trainer of this process before it starts to fit."""
    fit = Trainer.fit

    def watched(trainer: Trainer, *args: Any, **options: Any) -> Any:
        put_into(trainer)
        return fit(trainer, *args, **options)

    Trainer.fit = watched  # type: ignore[method-assign, assignment]
