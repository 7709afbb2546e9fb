"""How far apart the reference holds the two sides of a pair, and the beta that goes with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from diffdpo.engine import checkpoint
from diffdpo.engine.batches import Rows
from diffdpo.engine.sharding import is_sharded
from diffdpo.engine.task import Task
from diffdpo.engine.trainer import Trainer
from diffdpo.errors import UserError
from diffdpo.image.flags.loss_settings import image_objective
from diffdpo.image.settings import ImageSettings
from diffdpo.reference import Reference

PAIRS = 50
AUTO = "--beta_dpo auto"


def reference_spread(
    rows: Rows, task: Task, network: nn.Module, reference: Reference, seed: int, batch: int
) -> float | None:
    """The standard deviation of log π_ref(chosen) − log π_ref(rejected), in the unit of the scores,
    over the first pairs that a run will see, each at its first draw; None where there is none."""
    numbers = rows.order(seed, 0)[:PAIRS].tolist()
    gaps = []
    for first in range(0, len(numbers), batch):
        items = [rows.read(number, 0) for number in numbers[first : first + batch]]
        draw = task.draw(task.collate(items))
        gaps.append(gap(torch.as_tensor(reference.score(task.score, network, draw))))
    return deviation(torch.cat(gaps))


def gap(score_N: Tensor) -> Tensor:
    """Chosen − rejected of every pair, ``(B,)``."""
    chosen_B, rejected_B = score_N.chunk(2)
    return chosen_B - rejected_B


def deviation(gap_P: Tensor) -> float | None:
    """The standard deviation of the finite gaps; None of less than two, or where all are equal."""
    known_P = gap_P.cpu().double()
    known_P = known_P[known_P.isfinite()]
    return (float(known_P.std()) or None) if len(known_P) > 1 else None


def fitting(spread: float) -> float:
    """The beta, to three digits, at which the logits have a standard deviation of 1."""
    return float(f"{1 / spread:.3g}")


def worded(spread: float, beta: float, pairs: int) -> str:
    """The line on a spread over so many pairs, beside the ``beta`` of the run."""
    return (
        f"under the reference chosen − rejected has a standard deviation of {spread:.3g} over"
        f" {pairs} pairs, {spread * beta:.3g} in logits; a beta of {fitting(spread):g} would make"
        " that 1"
    )


def settled(
    settings: ImageSettings,
    rows: Rows,
    task: Task,
    network: nn.Module,
    reference: Reference,
    accelerator: Accelerator,
) -> tuple[ImageSettings, dict[str, str]]:
    """The settings with the beta of the run, and where it had to be found a line on it for the
    start. A run that is resumed takes the one that was found before.

    Raises UserError where it cannot be found.
    """
    if settings.beta_dpo is not None:
        return settings, {}
    if reason := unmeasured(settings, accelerator):
        raise UserError(f"{AUTO}: {reason}")
    if (before := earlier(settings)) is not None:
        return replace(settings, beta_dpo=before), {}
    batch, seed = settings.train_batch_size, settings.seed
    found = [reference_spread(rows, task, network, reference, seed, batch)]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)  # on other devices it may be rounded otherwise
    (spread,) = found
    if spread is None:
        raise UserError(
            f"{AUTO}: the reference's scores of the two sides do not differ, or there is one"
            " pair; give a number"
        )
    beta = fitting(spread)
    line = worded(spread, beta, min(PAIRS, len(rows)))
    return replace(settings, beta_dpo=beta), {"spread": line}


class FirstGaps:
    """Takes the reference's scores of a run's first pairs from its steps, which compute them in any
    case, and tells their spread once."""

    def __init__(self, trainer: Trainer, beta: float) -> None:
        self.accelerator, self.notice, self.beta = trainer.accelerator, trainer.notice, beta
        self.batch, steps = trainer.plan.effective_batch, trainer.plan.total_steps
        # No pair twice, and in a shorter run as many as it sees.
        self.wanted = min(PAIRS, len(trainer.rows), steps * self.batch)
        self.gaps: list[Tensor] = []  # of each micro-batch of this process, still on the device
        self.told = False

    def add(self, score_N: Tensor) -> None:
        """Keep the gaps of a micro-batch, if its pairs are among the first."""
        seen = sum(map(len, self.gaps)) * self.accelerator.num_processes
        if not self.told and seen < self.wanted:
            self.gaps.append(gap(score_N))

    def judge(self, record: dict[str, Any]) -> None:
        """After the step with the last of these pairs tell their spread; every process must ask."""
        if self.told or record["step"] * self.batch < self.wanted:
            return
        self.told = True
        gap_RMB = self.accelerator.gather(torch.stack(self.gaps)[None])  # processes, micro-batches
        # In the order of the stream, in which processes take turns.
        gap_P = gap_RMB.transpose(0, 1).flatten()[: self.wanted]
        self.gaps.clear()
        if (spread := deviation(gap_P)) is not None:
            self.notice(f"{'spread':<12} {worded(spread, self.beta, self.wanted)}")


def listen(trainer: Trainer, settings: ImageSettings) -> None:
    """Have the spread of the reference's scores told as soon as the steps of a run have shown it.

    Of a run that goes on it was told before, or with ``--beta_dpo auto`` at the start.
    """
    if not (trainer.objective.reference_free or goes_on(settings)):
        first = FirstGaps(trainer, settings.beta)
        trainer.overhear(first.add, first.judge)


def unmeasured(settings: ImageSettings, accelerator: Accelerator) -> str:
    """Why nothing can be measured in this run, and what to do; '' where it can."""
    if image_objective(settings).reference_free:
        return "the loss has no reference; give a number, or leave it out"
    if is_sharded(accelerator):
        return "not with weights in shares (FSDP2); give a number"
    return ""


def goes_on(settings: ImageSettings) -> bool:
    """Whether the run is one that is resumed."""
    folder = Path(settings.output_dir)
    return bool(settings.resume_from_checkpoint and checkpoint.list_checkpoints(folder))


def earlier(settings: ImageSettings) -> float | None:
    """The beta of the run that is resumed; None where none is."""
    wanted = settings.resume_from_checkpoint
    path = checkpoint.find(Path(settings.output_dir), wanted) if wanted else None
    if path is None:
        return None
    value = checkpoint.read_state(path)["settings"].get("beta_dpo")
    return float(value) if isinstance(value, (int, float)) else None
