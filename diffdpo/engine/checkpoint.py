"""Checkpoints: the trained weights and the optimizer, written whole or not at all, read back bit
for bit.

checkpoint-N/
    trainable.safetensors    every weight that is trained, float32
    optimizer.safetensors    the optimizer's tensors, named <parameter index>.<state name>
    state.json               step, settings, data fingerprint, the optimizer's other values

The random state is not here: every draw is a function of the step (see draws.py).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffdpo.engine.files import atomic_folder
from diffdpo.errors import UserError

FORMAT = "diffdpo checkpoint 1"
NAME = re.compile(r"checkpoint-(\d+)$")


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def list_checkpoints(output_dir: Path) -> list[Path]:
    """All checkpoints, oldest first; every one of them is whole."""
    # By number, not by name: checkpoint-10 comes after checkpoint-9.
    paths = [path for path in output_dir.glob("checkpoint-*") if NAME.search(path.name)]
    return sorted(paths, key=step_of)


@dataclass(frozen=True)
class Snapshot:
    """A run as it was at one step, in copies that training does not change."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> Snapshot:
    """The run as it is now, copied to CPU memory."""
    tensors, values = flatten(optimizer.state_dict())
    weights = {name: copied(weight) for name, weight in trainable(model).items()}
    return Snapshot(weights, tensors, {"format": FORMAT, **state, "optimizer": values})


def copied(value: Tensor) -> Tensor:
    """A copy on the CPU, ready to be written."""
    # copy=True: of a tensor on the CPU ``to`` would return the tensor itself, and training goes on
    # to change it while a thread writes the file.
    return value.detach().to("cpu", copy=True).contiguous()


def write(output_dir: Path, moment: Snapshot) -> Path:
    """Write ``checkpoint-{step}``; returns its path.

    Raises UserError where the disk does not take it; older checkpoints stay.
    """
    path = output_dir / f"checkpoint-{moment.state['step']}"
    try:
        with atomic_folder(path) as draft:
            save_file(moment.weights, draft / "trainable.safetensors")
            save_file(moment.optimizer, draft / "optimizer.safetensors")
            (draft / "state.json").write_text(json.dumps(moment.state))
    except (OSError, SafetensorError) as error:
        kept = [old.name for old in list_checkpoints(output_dir)]
        safe = f"{kept[-1]} is whole" if kept else "there was no earlier checkpoint"
        raise UserError(
            f"{path}: could not be written ({error}); {safe}; make room and resume"
        ) from error
    return path


class Background:
    """Runs work in a thread beside training, one piece at a time.

    Its errors are raised by the next ``start`` or ``wait``.
    """

    # One worker, so that checkpoints are written and pruned in the order of their steps.

    def __init__(self) -> None:
        self.pool, self.pending = ThreadPoolExecutor(max_workers=1), list[Future]()

    def start(self, work: Callable[[], object]) -> None:
        """Wait for the work begun before, then begin this one."""
        self.wait()
        self.pending.append(self.pool.submit(work))

    def wait(self) -> None:
        """Wait until all work is done."""
        while self.pending:
            self.pending.pop().result()


def set_aside(output_dir: Path, done: int) -> list[Path]:
    """Rename the checkpoints after step ``done``; returns their new names.

    A run resumed from an earlier step takes the later ones anew, and "latest" must not lead back to
    the abandoned ones.
    """
    moved = []
    for path in list_checkpoints(output_dir):
        if step_of(path) > done:
            target = path.with_name(f"{path.name}.abandoned")
            shutil.rmtree(target, ignore_errors=True)
            moved.append(path.rename(target))
    return moved


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(path.name.split("-")[1])


def prune(output_dir: Path, limit: int | None) -> None:
    """Delete the oldest checkpoints, so that at most ``limit`` are left; None keeps all."""
    for path in list_checkpoints(output_dir)[: -limit if limit else None] if limit else []:
        shutil.rmtree(path)


def find(output_dir: Path, wanted: str) -> Path | None:
    """The checkpoint to resume: the newest for "latest" (None: there is none), or the named one.

    Raises UserError where a named checkpoint does not exist.
    """
    if wanted == "latest":
        return (list_checkpoints(output_dir) or [None])[-1]  # type: ignore[list-item]
    for path in (Path(wanted), output_dir / wanted):
        if path.is_dir():
            return path
    raise UserError(
        f"--resume_from_checkpoint {wanted}: no such checkpoint, here or in {output_dir}"
    )


def read_state(path: Path) -> dict[str, Any]:
    """The content of ``state.json``. Raises UserError where the folder is not a checkpoint."""
    try:
        state = json.loads((path / "state.json").read_text())
        if state["format"] != FORMAT:
            raise KeyError("format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a checkpoint of diffdpo (no readable state.json of its format)"
        ) from error
    return state


def load(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Load weights and optimizer. Raises UserError for a truncated file or another network."""
    # Both files are read before anything is changed: a damaged one leaves no half-loaded run.
    weights, tensors = (
        read_tensors(path / "trainable.safetensors"),
        read_tensors(path / "optimizer.safetensors"),
    )
    own = trainable(model)
    wrong = set(own) ^ set(weights) or {k for k in own if own[k].shape != weights[k].shape}
    if wrong:
        raise UserError(
            f"{path}: holds weights of another network ({len(wrong)} differ, first {min(wrong)})"
        )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])  # in place: the optimizer and DDP hold these very tensors
    optimizer.load_state_dict(unflatten(tensors, state["optimizer"]))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file on the CPU. Raises UserError where it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: damaged or missing ({error}); resume from an older checkpoint"
        ) from error


def flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors for safetensors and plain values for JSON."""
    # Nothing is pickled: loading a pickle from elsewhere would run its code.
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entry in state["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = copied(value)
            else:
                values[f"{index}.{name}"] = value
    return tensors, {"values": values, "param_groups": state["param_groups"]}


def unflatten(tensors: dict[str, Tensor], saved: dict[str, Any]) -> dict[str, Any]:
    """The inverse of ``flatten``."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **saved["values"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": saved["param_groups"]}
