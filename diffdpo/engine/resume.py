"""Resuming: checks that a checkpoint belongs to this run, loads it, sets later ones aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from diffdpo.config import as_dict
from diffdpo.engine import checkpoint
from diffdpo.engine.averages import NO_AVERAGES, Averages
from diffdpo.engine.checkpoint_state import check_files
from diffdpo.engine.journal import Journal
from diffdpo.engine.settings import TrainSettings
from diffdpo.engine.sharding import agreed, is_sharded
from diffdpo.errors import SharedError, UserError, short


@dataclass(frozen=True)
class Start:
    """Where a run begins: the checkpoint that it goes on from, and what that records of its run."""

    checkpoint: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """The steps done before."""
        return int(self.state.get("step", 0))


def run_state(
    settings: TrainSettings, effective_batch: int, data: str, accelerator: Accelerator, done: int
) -> dict[str, Any]:
    """What a checkpoint records of its run, for ``resume`` to compare."""
    scaler = accelerator.scaler
    return {
        "step": done,
        "settings": as_dict(settings),
        "effective_batch": effective_batch,
        "data": data,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }


def find_start(
    settings: TrainSettings,
    accelerator: Accelerator,
    current: dict[str, Any],
    notice: Callable[[str], None],
) -> Start:
    """The checkpoint that is to be resumed, if any. Nothing is loaded or written yet.

    ``current`` is the state of this run. Raises UserError where the checkpoint is of another run.
    """
    requested, output_dir = settings.resume_from_checkpoint, Path(settings.output_dir)
    path = (
        checkpoint.find(output_dir, requested, notice, together(accelerator)) if requested else None
    )
    accelerator.wait_for_everyone()  # all have looked before anything is set aside
    if path is None:
        if requested:
            notice(f"resume       no checkpoint in {output_dir} yet: starting from step 0")
        return Start()
    state = checkpoint.read_state(path)
    state["settings"] = as_known_now(state["settings"], as_dict(type(settings)()))
    check_same_run(path, state, current, settings.free_on_resume())
    return Start(path, state)


def together(accelerator: Accelerator) -> Callable[[Path], None]:
    """How the processes look at a checkpoint: each for itself; where weights are in shares, each at
    its part of the files, and what one finds is what all find."""
    if not is_sharded(accelerator):
        return checkpoint.look

    def look(path: Path) -> None:
        number, of, found = accelerator.process_index, accelerator.num_processes, None
        try:
            check_files(path, checkpoint.read_state(path), number, of)
        except UserError as error:
            found = "; ".join(error.mistakes)
        if found := agreed(accelerator, found):
            raise SharedError(found)

    return look


def as_known_now(then: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The settings of an older run, as this version would write them.

    One that the run did not know yet had its default's effect; one that takes several values now
    took one then.
    """
    listed = {
        name: [value]
        for name, value in then.items()
        if isinstance(defaults.get(name), list) and isinstance(value, str)
    }
    return defaults | then | listed


def resume(
    start: Start,
    output_dir: Path,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    notice: Callable[[str], None],
    averages: Averages = NO_AVERAGES,
) -> None:
    """Load the checkpoint to start from, if any, and set later ones aside."""
    if start.checkpoint is None:
        return
    path, state = start.checkpoint, start.state
    checkpoint.load(path, model, optimizer, state, averages)
    # The scale of float16 losses is found by trial over many steps; without it the resumed run
    # would skip other steps.
    if accelerator.scaler is not None and state.get("scaler"):
        accelerator.scaler.load_state_dict(state["scaler"])
    notice(f"resumed      {path} at step {start.step}")
    for line in gaps(output_dir, path, state):
        notice(line)
    if accelerator.is_main_process:
        for left in checkpoint.set_aside(output_dir, start.step):
            notice(f"set aside    {left}: of the steps after {start.step} that this run takes anew")


def gaps(output_dir: Path, path: Path, state: dict[str, Any]) -> list[str]:
    """A line for each thing that a whole checkpoint cannot vouch for."""
    lines = []
    if "files" not in state:
        lines += ["note         an earlier version wrote it, without digests: damage is not seen"]
    logged = Journal(output_dir / "metrics.jsonl").last().get("step", 0)
    if path.parent.resolve() == output_dir.resolve() and logged < state["step"]:
        missing = f"{logged + 1} to {state['step']}"
        lines += [f"note         metrics.jsonl ends at step {logged}: it lacks steps {missing}"]
    return lines


def check_same_run(path: Path, then: dict[str, Any], now: dict[str, Any], free: set[str]) -> None:
    """Raise UserError with a line for each setting that differs, except the ``free`` ones."""
    mistakes = [
        f"{path}: its run has --{name} {short(then['settings'].get(name))}, this one {short(value)}"
        for name, value in now["settings"].items()
        if name not in free and then["settings"].get(name) != value
    ]
    mistakes += [
        f"{path}: its run has --{short(name)} {short(value)}, which this version does not know"
        for name, value in then["settings"].items()
        if name not in now["settings"]
    ]
    if then["effective_batch"] != now["effective_batch"]:
        mistakes.append(
            f"{path}: its effective batch is {then['effective_batch']}, not"
            f" {now['effective_batch']}"
        )
    if then["data"] != now["data"]:
        mistakes.append(f"{path}: its run was trained on other data")
    if mistakes:
        raise UserError(*mistakes)
