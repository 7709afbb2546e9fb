"""Follows the records of a run, names each kind of trouble once, and acts on winner drift."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from diffdpo.engine.watch.signs import (
    WINDOW,
    WINNER,
    Drift,
    Record,
    is_saturated,
    spike,
    winner_drift,
)
from diffdpo.errors import SharedError

PAGE = "docs/choosing.md"
ADVICE = {
    "drift": "stop earlier, lower --learning_rate, raise --beta_dpo, or hold the winner"
    " (--winner_safeguard 0.6)",
    "saturated": "nothing is left to learn from these pairs: stop here, or add others",
    "spike": "one is a pair that the policy is sure of the wrong way round; if they come again,"
    " lower --learning_rate or average draws (--timesteps_per_pair 4)",
    "collapse": "take an earlier checkpoint, lower --learning_rate or raise --beta_dpo; look at the"
    " pictures",
}


def told(kind: str, step: int, line: str) -> str:
    """The line in which a kind of trouble is named: what was seen, and what to do about it."""
    return f"{kind:<12} step {step}: {line}; {ADVICE[kind]} ({PAGE})"


class Watch:
    """The window of a run's last steps, and what was seen in it.

    All of its state follows from the records, which are the same on all processes.
    """

    def __init__(
        self,
        notice: Callable[[str], None],
        on_drift: str,
        share: float,
    ) -> None:
        self.notice, self.on_drift, self.share = notice, on_drift, share
        self.begin(())

    def begin(self, records: Iterable[Record]) -> None:
        """Take up a run after these ``records``, without a word on what was told before."""
        self.window: deque[Record] = deque(maxlen=WINDOW)
        self.first: list[Record] = []
        self.told: set[str] = set()
        self.drifted: tuple[int, Drift] | None = None  # the step at which drift was seen first
        for record in records:
            for kind, _ in self.seen(record):
                self.told.add(kind)

    def judge(self, record: dict[str, Any]) -> None:
        """Take in a step's record, add its drift, and name what is new."""
        for kind, line in self.seen(record):
            if kind not in self.told:
                self.told.add(kind)
                self.notice(told(kind, record["step"], line))
        if drift := winner_drift(self.window):
            record.update(drift.as_metrics())

    def seen(self, record: Record) -> list[tuple[str, str]]:
        """Take a record into the window; returns the kinds of trouble in it, with a line each."""
        names = ("loss", "grad_norm", *(name for name in WINNER if name in record))
        # A step that was not taken, or a record that somebody else has written.
        if not all(math.isfinite(record.get(name, math.nan)) for name in names):
            return []
        found = []
        if odd := spike(record, self.window, self.first):
            found.append(("spike", str(odd)))
        self.window.append(record)
        if len(self.first) < WINDOW:
            self.first.append(record)
        if is_saturated(self.window, self.first):
            found.append(("saturated", "accuracy near 1 and gradient near 0"))
        drift = winner_drift(self.window)
        if drift and drift.low > self.share:
            self.drifted = self.drifted or (record["step"], drift)
            line = f"the policy's error on winners is {drift} above the reference's"
            found.append(("drift", f"{line}, over {WINDOW} steps"))
        return found

    @property
    def ends(self) -> bool:
        """Whether the run is to end because of what was seen."""
        return self.drifted is not None and self.on_drift != "warn"

    @property
    def stops(self) -> bool:
        """Whether it is to end without a result, once it is saved."""
        return self.ends and self.on_drift == "stop"

    @property
    def rolls_back(self) -> bool:
        """Whether it is to end with the checkpoint before the drift as its result."""
        return self.ends and self.on_drift == "rollback"

    def refuse_result(self, left: Callable[[], str]) -> None:
        """Raise SharedError for a run that drift has stopped; ``left`` says what it leaves."""
        if self.stops and self.drifted:
            step, drift = self.drifted
            raise SharedError(
                f"--on_drift stop: winner drift {drift} at step {step}, above {self.share:.0%};"
                f" {left()}; write an earlier one out with diffdpo export --step, or go on with"
                " --on_drift warn"
            )
