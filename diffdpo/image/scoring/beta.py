"""How far apart the reference holds the two sides of a pair, and the beta that goes with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from diffdpo.engine import checkpoint
from diffdpo.engine.batches import Rows
from diffdpo.engine.plan import Plan
from diffdpo.engine.sharding import is_sharded
from diffdpo.engine.task import Task
from diffdpo.engine.watch.signs import WINDOW
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
    over the first pairs that a run will see, each at its first draw; None of a single pair."""
    numbers = rows.order(seed, 0)[:PAIRS].tolist()
    gaps = []
    for first in range(0, len(numbers), batch):
        items = [rows.read(number, 0) for number in numbers[first : first + batch]]
        draw = task.draw(task.collate(items))
        score_N = torch.as_tensor(reference.score(task.score, network, draw))
        chosen_B, rejected_B = score_N.double().chunk(2)
        gaps.append((chosen_B - rejected_B).cpu())
    gap_P = torch.cat(gaps)
    return float(gap_P.std()) if len(gap_P) > 1 else None


def fitting(spread: float) -> float:
    """The beta, to three digits, at which the logits have a standard deviation of 1."""
    return float(f"{1 / spread:.3g}")


def settled(
    settings: ImageSettings,
    rows: Rows,
    task: Task,
    network: nn.Module,
    reference: Reference,
    accelerator: Accelerator,
) -> tuple[ImageSettings, dict[str, str]]:
    """The settings with the beta of the run, and a line on it for the start.

    Where it is to be found, a run that is resumed takes the one that was found before. Of runs of
    less than a window of steps whose beta is given, and of those that go on, nothing is
    measured.

    Raises UserError where it cannot be found.
    """
    is_open = settings.beta_dpo is None
    reason = unmeasured(settings, accelerator)
    if is_open and reason:
        raise UserError(f"{AUTO}: {reason}")
    if is_open and (before := earlier(settings)) is not None:
        return replace(settings, beta_dpo=before), {}
    steps = Plan(settings, len(rows), accelerator.num_processes).total_steps
    if reason or (not is_open and (goes_on(settings) or steps < WINDOW)):
        return settings, {}
    batch, seed = settings.train_batch_size, settings.seed
    found = [reference_spread(rows, task, network, reference, seed, batch)]
    if accelerator.num_processes > 1:
        broadcast_object_list(found)  # on other devices it may be rounded otherwise
    (spread,) = found
    if not spread:
        if is_open:
            raise UserError(
                f"{AUTO}: the reference's scores of the two sides do not differ, or there is one"
                " pair; give a number"
            )
        return settings, {}
    beta = fitting(spread)
    line = (
        f"under the reference chosen − rejected has a standard deviation of {spread:.3g},"
        f" {spread * (beta if is_open else settings.beta):.3g} in logits; a beta of {beta:g} would"
        " make that 1"
    )
    return replace(settings, beta_dpo=beta) if is_open else settings, {"spread": line}


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
