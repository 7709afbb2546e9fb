"""Reads the settings that a run recorded, for the commands that evaluate its result."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from diffdpo.config import Layer, read_yaml
from diffdpo.engine.checkpoint_state import holds_weights
from diffdpo.errors import UserError, short
from diffdpo.extensions import is_own

FILE = "config.yaml"
CHECKPOINT = re.compile(r"checkpoint-[0-9]{1,18}")
IN_MEMORY = "(in memory)"  # the name in it of an object that a program handed over


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder is, by its name and its weights, a checkpoint of a run."""
    return bool(CHECKPOINT.fullmatch(folder.name)) and holds_weights(folder)


def run_of(policy: str | Path) -> Path:
    """The folder of the run that a result, or a checkpoint, belongs to."""
    folder = Path(policy)
    return folder.parent if is_checkpoint(folder) else folder


def recorded(folder: str | Path | None) -> dict[str, Any]:
    """The settings of the run in ``folder``; empty where it recorded none.

    Raises UserError where they cannot be read.
    """
    path = Path(folder or "") / FILE
    return read_yaml(str(path)) if folder and path.is_file() else {}


def layer_of_run(
    folder: str, settings: Mapping[str, Any], given: Mapping[str, Any]
) -> Layer | None:
    """The ``settings`` that have a value, as a layer beneath those ``given``; None where none has.

    Raises UserError where one that is not given names code: a folder must not make a program run.
    """
    content = {name: value for name, value in settings.items() if value}
    for name, value in content.items():
        if name not in given and is_own(str(value)):
            raise UserError(
                f"{Path(folder) / FILE}: {name} {short(value)} is code; if you trust it, give"
                f" --{name} yourself"
            )
    return Layer(str(Path(folder) / FILE), content, "from the run") if content else None


def layer_of_policy(
    policy: str | None,
    run: Mapping[str, Any],
    given: Mapping[str, Any],
    tied: Mapping[str, Iterable[str]],
    always: Iterable[str],
) -> Layer | None:
    """What the ``run`` of a policy has recorded, as a layer: the ``tied`` settings that are
    ``chosen``, and those that hold ``always``. Raises UserError as ``layer_of_run`` does."""
    own = {name: run.get(name) for name in always}
    return layer_of_run(str(run_of(str(policy))), {**chosen(run, given, tied), **own}, given)


def chosen(
    run: Mapping[str, Any], given: Mapping[str, Any], tied: Mapping[str, Iterable[str]]
) -> dict[str, Any]:
    """The run's settings that still apply, by name.

    ``tied`` lists for each key, the name of a model or data set, the settings that belong to it:
    where another model or data set is given, they are left out with it.
    """
    return {
        name: run.get(name)
        for key, names in tied.items()
        if key not in given or str(given[key]) == str(run.get(key))
        for name in (key, *names)
    }


def result_problems(
    policy: str | None,
    marks: Iterable[str],
    named: Mapping[str, Any],
    checkpoints: bool = False,
    flag: str = "policy",
) -> list[str]:
    """Why ``policy`` cannot be judged: it is no folder with a result, of which every one holds one
    of ``marks``; or one of the settings ``named`` is known neither from the user nor the run.

    ``checkpoints``: those of a run count as results. ``flag`` is the one that named it.
    """
    if not policy:
        return [f"--{flag} is needed: the output folder of a finished run"]
    folder = Path(policy)
    if not folder.is_dir():
        why = (
            "is a file, not a folder" if folder.exists() else "no such folder; did its run finish?"
        )
        return [f"--{flag} {policy}: {why}"]
    saved = is_checkpoint(folder)
    if holds_weights(folder) and not (saved and checkpoints):
        step = folder.name.rpartition("-")[2]
        way = f"diffdpo export {folder.parent} --step {step}" if saved else "let its run finish"
        return [f"--{flag} {policy}: is a checkpoint, not a result; {way}"]
    if not saved and not any((folder / mark).exists() for mark in marks):
        return [f"--{flag} {policy}: has no result ({', '.join(marks)}); did its run finish?"]
    if missing := [f"--{name}" for name, value in named.items() if value in (None, IN_MEMORY)]:
        run = run_of(folder)
        why = f"its {FILE} names none on disk" if (run / FILE).is_file() else f"has no {FILE}"
        return [f"{' and '.join(missing)} needed: {run} {why}"]
    return []


def departures(
    policies: Iterable[str], names: Mapping[str, Any], read: Callable[[Path], Mapping[str, Any]]
) -> list[str]:
    """A line for each value in ``names`` that is not the one that the run of a policy has, whose
    folder is ``read``; but for the first policy with its name in front.

    The figures then compare with something else than what the run was trained against.
    """
    lines = []
    for place, policy in enumerate(policies):
        found = departures_from(read(run_of(policy)), names)
        lines += [f"{policy}: {line}" if place else line for line in found]
    return lines


def departures_from(run: Mapping[str, Any], names: Mapping[str, Any]) -> list[str]:
    """The same of one run."""
    return [
        f"not the run's --{name} {value or 'none'}: the run was trained with {run[name] or 'none'}"
        for name, value in names.items()
        if name in run and not same(value, run[name])
    ]


def same(one: Any, other: Any) -> bool:
    """Whether two settings mean the same: equal, both absent, or two paths of one file."""
    if (one or None) == (other or None):
        return True
    both = isinstance(one, str) and isinstance(other, str) and bool(one and other)
    return both and Path(one).exists() and Path(one).resolve() == Path(other).resolve()
