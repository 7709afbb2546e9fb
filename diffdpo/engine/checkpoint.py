"""Checkpoints: the trained weights and the optimizer, written whole or not at all, read back bit
for bit.

checkpoint-N/
    trainable.safetensors    every weight that is trained, float32
    optimizer.safetensors    the optimizer's tensors, named <weight>.<state name>
    averages.safetensors     moving averages of the weights, named <average>.<weight>, if any
    state.json               step, settings, data fingerprint, the optimizer's other values, and the
                             digests of these files and of itself

Beyond IN_SHARES_FROM trained weights of a run whose weights are in shares, each of the three
files is a folder of that name, in which every process writes its share; see shares.py.

The random state is not here: every draw is a function of the step (see draws.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffdpo.engine.averages import EXPORTED, NO_AVERAGES, Averages, tensors_of
from diffdpo.engine.checkpoint_state import (
    AVERAGES,
    MEANS,
    OPTIMIZER,
    PARTS,
    TRAINABLE,
    check_files,
    is_in_shares,
    is_ours,
    read_state,
    seal,
)
from diffdpo.engine.files import atomic_folder, draft_of, remove
from diffdpo.engine.finite import names_not_finite
from diffdpo.engine.optimizer_state import copies, flatten, restore
from diffdpo.engine.sharding import copy_in
from diffdpo.engine.shares import read_shares
from diffdpo.errors import UserError, short

NAME = re.compile(r"checkpoint-([0-9]{1,18})$")
# Trained weights beyond which one process no longer gathers all: with AdamW's state 120 GB.
IN_SHARES_FROM = 10_000_000_000


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """The weights that training changes, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def named(output_dir: Path) -> list[Path]:
    """All that bears the name of a checkpoint, oldest first, of whatever kind it is."""
    # By number, not by name: checkpoint-10 comes after checkpoint-9.
    paths = [path for path in output_dir.glob("checkpoint-*") if NAME.fullmatch(path.name)]
    return sorted(paths, key=step_of)


def list_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of this package, oldest first; folders of others are none."""
    return [path for path in named(output_dir) if is_ours(path)]


@dataclass(frozen=True)
class Snapshot:
    """A run as it was at one step, in copies that training does not change."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    averages: dict[str, Tensor] = field(default_factory=dict)
    first: dict[str, int] = field(
        default_factory=dict
    )  # rows at which the tensors of a share begin

    @property
    def parts(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of each part of a checkpoint; of a part that a run has not, none."""
        found = dict(zip(PARTS, (self.weights, self.optimizer, self.averages), strict=True))
        return {part: tensors for part, tensors in found.items() if tensors or part != MEANS}


def snapshot(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    averages: Averages = NO_AVERAGES,
    keep: bool = True,
) -> Snapshot:
    """The run as it is now, copied to CPU memory by the process that is to ``keep`` it; where
    weights are in shares, all must call this together."""
    own = trainable(model)
    tensors, values = flatten(optimizer.state_dict(), list(own))
    weights, tensors, means = (copies(x, keep) for x in (own, tensors, tensors_of(averages)))
    return Snapshot(weights, tensors, {**state, "optimizer": values}, means)


def path_of(output_dir: Path, state: Mapping[str, Any]) -> Path:
    """Where the checkpoint of a run in this state lies."""
    return output_dir / f"checkpoint-{state['step']}"


def write(output_dir: Path, moment: Snapshot) -> Path:
    """Write ``checkpoint-{step}``; returns its path.

    Raises UserError where the disk does not take it; older checkpoints stay.
    """
    path = path_of(output_dir, moment.state)
    with told_of(path), atomic_folder(path) as draft:
        for part, tensors in moment.parts.items():
            save_file(tensors, draft / f"{part}.safetensors")
        seal(draft, moment.state)
    return path


@contextmanager
def told_of(path: Path) -> Iterator[None]:
    """Tell what goes wrong in writing a checkpoint in one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        kept = [old.name for old in list_checkpoints(path.parent)]
        safe = f"{kept[-1]} is whole" if kept else "there was no earlier checkpoint"
        raise UserError(
            f"{path}: could not be written ({error}); {safe}; make room and resume"
        ) from error


def set_aside(output_dir: Path, done: int) -> list[Path]:
    """Rename the checkpoints after step ``done``; returns their new names.

    A run resumed from an earlier step takes the later ones anew, and "latest" must not lead back to
    the abandoned ones.
    """
    moved = []
    # The newest first: a kill in between leaves the older ones of one branch, with their metrics.
    for path in reversed(named(output_dir)):
        if step_of(path) > done:
            target = path.with_name(f"{path.name}.abandoned")
            while os.path.lexists(target) and not is_ours(target):
                target = target.with_name(f"{target.name}.abandoned")
            remove(target)
            moved.append(path.rename(target))
    return moved


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(path.name.split("-")[1])


def prune(output_dir: Path, limit: int | None, spared: int | None = None) -> None:
    """Delete all but the ``limit`` newest checkpoints, and that of step ``spared``; None: none."""
    old = list_checkpoints(output_dir)[:-limit] if limit else []
    for path in (path for path in old if step_of(path) != spared):
        remove(path.rename(draft_of(path)))  # renamed first: a kill must not leave half of one


def look(path: Path) -> None:
    """Raises UserError where a checkpoint is not whole."""
    check_files(path, read_state(path))


def find(
    output_dir: Path,
    wanted: str,
    notice: Callable[[str], None] = lambda line: None,
    look: Callable[[Path], None] = look,
) -> Path | None:
    """The checkpoint to resume: the named one, or for "latest" the newest that is whole, which
    ``look`` finds out.

    None: there is none yet. ``notice`` gets a line for each newer one that is left out.

    Raises UserError where a named checkpoint does not exist or is damaged, and where none is whole.
    """
    if wanted != "latest":
        path = located(output_dir, wanted)
        look(path)
        return path
    left_out: list[str] = []
    for path in reversed(named(output_dir)):
        try:
            look(path)
        except UserError as error:
            left_out += error.mistakes
            continue
        for line in left_out:
            notice(f"left out     {line}")
        return path
    if left_out:
        raise UserError(
            *left_out, f"--resume_from_checkpoint latest: none in {output_dir} is whole"
        )
    return None


def located(output_dir: Path, wanted: str) -> Path:
    """The folder of a checkpoint that was named. Raises UserError where there is none."""
    for path in (Path(wanted), output_dir / wanted):
        if path.is_dir():
            return path
    raise UserError(
        f"--resume_from_checkpoint {wanted}: no such checkpoint, here or in {output_dir}"
    )


def load(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    averages: Averages = NO_AVERAGES,
) -> None:
    """Load weights, optimizer and moving averages. Raises UserError for a damaged file or another
    network."""
    # All files are read before anything is changed: a damaged one leaves no half-loaded run.
    own, own_means = trainable(model), tensors_of(averages)
    weights = read_part(path, TRAINABLE, own.get)
    tensors = read_part(path, OPTIMIZER, lambda name: own.get(name.rpartition(".")[0]))
    means = read_part(path, MEANS, own_means.get) if averages else {}
    check_tensors(path / f"{TRAINABLE}.safetensors", own, weights)
    check_tensors(path / AVERAGES, own_means, means)
    try:
        restore(optimizer, tensors, state["optimizer"]["values"], list(own))
    except UserError as error:
        reason = "; ".join(error.mistakes)
        raise UserError(f"{path / 'optimizer.safetensors'}: does not fit ({reason})") from error
    copy_in(own, weights)
    copy_in(own_means, means)


def load_result(path: Path, model: nn.Module, state: dict[str, Any]) -> None:
    """Load the weights that a run ending at a checkpoint would have exported.

    Raises UserError where a file is damaged, or of another network.
    """
    check_files(path, state)
    file, own = path / f"{TRAINABLE}.safetensors", trainable(model)
    weights = read_part(path, TRAINABLE)
    if any(name.startswith(MEANS) for name in state.get("files", {})):
        means = read_part(path, MEANS)
        exported = {k.removeprefix(EXPORTED): v for k, v in means.items() if k.startswith(EXPORTED)}
        file, weights = (path / AVERAGES, exported) if exported else (file, weights)
    check_tensors(file, own, weights)
    copy_in(own, weights)


def check_tensors(file: Path, own: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Raise UserError where a file holds other tensors than a run has, or some are not finite."""
    wrong = set(own) ^ set(found) or {
        name
        for name in own
        if (own[name].shape, own[name].dtype) != (found[name].shape, found[name].dtype)
    }
    if wrong:
        raise UserError(
            f"{file.parent}: holds weights of another network ({len(wrong)} differ, first"
            f" {short(min(wrong))})"
        )
    if broken := names_not_finite(found.items()):
        raise UserError(
            f"{file}: {len(broken)} weights are not finite, first"
            f" {short(broken[0])}; resume from an older checkpoint"
        )


def read_part(
    path: Path, part: str, like: Callable[[str], Tensor | None] = lambda name: None
) -> dict[str, Tensor]:
    """The tensors of a part of a checkpoint: whole or, of a folder of shares, in the shares of the
    tensor that ``like`` gives. Raises UserError where it is missing or damaged."""
    if is_in_shares(path):
        return read_shares(path / part, like)
    return read_tensors(path / f"{part}.safetensors")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file on the CPU. Raises UserError where it is missing or damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: damaged or missing ({short(error)}); resume from an older checkpoint"
        ) from error
