"""One run from its start lines to its result, for images and text alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from diffdpo.engine.console import say, start_lines
from diffdpo.engine.journal import Journal
from diffdpo.engine.run_folder import conclude, start_records
from diffdpo.engine.settings import TrainSettings
from diffdpo.engine.sharding import is_sharded
from diffdpo.engine.trainer import Trainer
from diffdpo.engine.watch.evals import Measures

STOPPED_EARLY = 3  # the exit code of a run that was asked to stop, and can go on


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run: its folder, whether it came to its end, and the trained network."""

    folder: Path
    finished: bool
    network: nn.Module

    @property
    def exit_code(self) -> int:
        """0 for a run that came to its end, 3 for one that was stopped and can go on."""
        return 0 if self.finished else STOPPED_EARLY

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``, one for each step."""
        return Journal(self.folder / "metrics.jsonl").read()


def carry_out(
    settings: TrainSettings,
    trainer: Trainer,
    facts: dict[str, str],
    validation: Callable[[], Measures | None],
    export: Callable[[Mapping[str, float]], Path],
    preview: Sequence[str] = (),
) -> bool:
    """Print the facts, record the settings, train, measure, export; returns whether it finished.

    ``validation`` makes what measures, after the start lines because that may take a while.
    ``export`` gets the last record of the run.
    """
    start_lines(facts | device_lines(trainer))
    say(*(f"preview      {line}" for line in preview))
    # First of all: a checkpoint of another run is refused before anything of this one is written.
    start = trainer.keeper.find_start()
    start_records(settings, trainer.accelerator)
    say(*moved_rates(settings, trainer, start.state.get("settings")))
    measures = validation()
    ending = trainer.fit(start, measures)
    step = ending.done
    if ending.finished:
        step = trainer.place_result(ending.done)
        if measures:
            measures.final(step)
        trainer.make_whole()
    conclude(
        settings,
        trainer.accelerator,
        None if ending.finished else ending.done,
        trainer.plan.total_steps,
        lambda: export(trainer.recorder.journal.at(step)),
    )
    return ending.finished


def device_lines(trainer: Trainer) -> dict[str, str]:
    """The lines at the start of which the device and the processes decide."""
    accelerator, lines = trainer.accelerator, {}
    if workers := trainer.settings.workers_on(accelerator.device.type):
        lines["reading"] = f"{workers} processes for each that trains (--dataloader_num_workers)"
    if is_sharded(accelerator):
        line = f"FSDP2: weights in shares over {accelerator.num_processes} processes;"
        lines["sharding"] = f"{line} {trainer.layers} layers, one of them whole at a time"
    return lines


def moved_rates(
    settings: TrainSettings, trainer: Trainer, earlier: Mapping[str, Any] | None
) -> list[str]:
    """A line where a resumed run has another length and its schedule spans the whole run.

    The rates of the steps to come are then not those of the first plan, in the ``earlier`` run's
    settings.
    """
    if earlier is None or settings.lr_scheduler.startswith("constant"):
        return []
    before = trainer.plan.steps_of(earlier["max_train_steps"], earlier["num_train_epochs"])
    after = trainer.plan.total_steps
    if before == after:
        return []
    return [
        f"rate         --lr_scheduler {settings.lr_scheduler} was planned over {before} steps and"
        f" is now planned over {after}: the rates to come differ from the first plan's"
    ]
