"""How much a run trains: its batch, rate and steps, from the settings and the number of rows."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.engine.settings import TrainSettings


@dataclass(frozen=True)
class Plan:
    """Batch, rate and steps of a run over ``rows`` rows, by so many ``processes``."""

    settings: TrainSettings
    rows: int
    processes: int

    @property
    def effective_batch(self) -> int:
        """Pairs per optimizer step, over all processes and micro-batches."""
        settings = self.settings
        return settings.train_batch_size * settings.gradient_accumulation_steps * self.processes

    @property
    def peak_rate(self) -> float:
        """The learning rate after ``--scale_lr``."""
        return self.settings.learning_rate * (self.effective_batch if self.settings.scale_lr else 1)

    @property
    def steps_per_epoch(self) -> int:
        """The number of optimizer steps in which every row is seen about once."""
        return max(1, round(self.rows / self.effective_batch))

    @property
    def total_steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        return self.steps_of(self.settings.max_train_steps, self.settings.num_train_epochs)

    def steps_of(self, steps: int | None, epochs: float) -> int:
        """The number of optimizer steps of a run of ``steps`` or, where None, of ``epochs``."""
        return planned_steps(steps, epochs, self.rows, self.effective_batch)

    def next_pause(self, done: int) -> int:
        """The step after which the processes next agree to stop, if one of them was asked to."""
        if self.processes == 1:
            return done + 1
        every = (self.settings.checkpointing_steps, self.settings.logging_steps)
        return min(self.total_steps, *(n * (done // n + 1) for n in every))

    def lines(self, what: str) -> dict[str, str]:
        """The plan for the lines at the start; ``what`` names the rows."""
        settings, steps = self.settings, self.total_steps
        batch, accumulated = settings.train_batch_size, settings.gradient_accumulation_steps
        scaled = " (scaled)" if settings.scale_lr else ""
        epochs = steps * self.effective_batch / self.rows
        decay = settings.ema_decay
        warmup = settings.warmup_steps(steps)
        short = ", more than the run has" if warmup > steps else ""
        ema = "" if decay is None else f"; exported: their moving average, decay {decay:g}"
        return {
            "batch": f"{self.effective_batch} {what} = {batch} x {accumulated} accumulated"
            f" x {self.processes} processes",
            "rate": f"{self.peak_rate:g}{scaled}, {settings.lr_scheduler},"
            f" {warmup} warm-up steps{short}",
            "steps": f"{steps:,} = {epochs:.2f} epochs; to {settings.output_dir}{ema}",
        }


def planned_steps(steps: int | None, epochs: float, rows: int, effective_batch: int) -> int:
    """The number of optimizer steps of a run: ``steps``, or else that of so many epochs."""
    return steps if steps is not None else max(1, round(epochs * rows / effective_batch))
