"""All that is watched in a run: its records, and what is measured on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext

from accelerate import Accelerator

from diffdpo.engine.averages import Averages
from diffdpo.engine.callbacks import Callbacks
from diffdpo.engine.settings import TrainSettings
from diffdpo.engine.watch.ending import Ending, result_step
from diffdpo.engine.watch.evals import NOTHING, Evals, Measures, Wish
from diffdpo.engine.watch.overtrained import verdict
from diffdpo.engine.watch.signs import Record
from diffdpo.engine.watch.watch import Watch
from diffdpo.errors import UserError
from diffdpo.objective.terms import Objective


class Monitor:
    """Follows a run whose exported weights are those of ``averages``, if one is exported."""

    def __init__(
        self,
        settings: TrainSettings,
        accelerator: Accelerator,
        averages: Averages,
        objective: Objective,
        notice: Callable[[str], None],
    ) -> None:
        """Raises UserError where a run that is to act on drift has no reference to drift from."""
        on_drift, share = settings.drift_rule
        if on_drift != "warn" and objective.reference_free:
            raise UserError(
                f"--on_drift {on_drift}: the loss has no reference, from which drift is"
                " measured; leave it out"
            )
        self.watch = Watch(notice, on_drift, share)
        self.evals = Evals(settings, accelerator, notice)
        self.measures: Measures | None = None
        self.averages, self.notice = averages, notice
        self.wish, self.callbacks = NOTHING, Callbacks()

    def begin(self, done: int, records: Iterable[Record], measures: Measures | None) -> None:
        """Go on after step ``done``, of which and before which these ``records`` are."""
        self.measures = measures
        self.watch.begin(records)
        self.wish = self.evals.begin(done)

    @property
    def ends(self) -> bool:
        """Whether the run is to end before all steps are done."""
        return self.wish.end or self.watch.ends or self.callbacks.ended

    def after_step(self, done: int) -> Wish:
        """Measure on held-out rows where it is due, with the weights that would be exported;
        returns what follows from it."""
        self.wish, measures = NOTHING, self.measures
        if measures is not None and measures.due(done):
            average = self.averages.get("ema")
            with average.in_place() if average else nullcontext():
                figures = measures.measure(done)
            if figures:
                self.wish = self.evals.add(done, figures)
                self.callbacks.evaluated(done, figures)
        return self.wish

    def ending(self, begun: int, done: int, total: int, left: Callable[[], str]) -> Ending:
        """How a run of ``total`` steps has ended that went from step ``begun`` to ``done``.

        Raises SharedError where drift has stopped it; ``left`` says what it leaves.
        """
        self.watch.refuse_result(left)
        for line in verdict(self.evals.lines, self.evals.metric):
            self.notice(line)
        if begun == done == total and not self.evals.has(done):  # an earlier version's checkpoint
            self.after_step(done)
        early = self.wish.end or self.watch.rolls_back or self.callbacks.ended
        return Ending(done, finished=done == total or early)

    def result_step(self, saved: list[int]) -> int | None:
        """The step of the checkpoint, among those ``saved``, that is the result; None where it is
        the weights as they are."""
        return result_step(saved, self.watch, self.evals, self.notice)
