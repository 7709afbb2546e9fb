"""Reads the settings that a run recorded, for the commands that evaluate its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffdpo.config import Layer, read_yaml

FILE = "config.yaml"


def recorded(folder: str | Path | None) -> dict[str, Any]:
    """The settings of the run in ``folder``; empty where it recorded none.

    Raises UserError where they cannot be read.
    """
    path = Path(folder or "") / FILE
    return read_yaml(str(path)) if folder and path.is_file() else {}


def layer_of_run(folder: str, settings: Mapping[str, Any]) -> Layer | None:
    """The ``settings`` that have a value, as a layer beneath the user's; None where none has."""
    content = {name: value for name, value in settings.items() if value}
    return Layer(str(Path(folder) / FILE), content, "from the run") if content else None


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


def trained_on(folder: str | None, data: str | None, split: str, split_name: str) -> list[str]:
    """A line where an evaluation reads the rows that the run in ``folder`` was trained on.

    ``split_name`` is the run's setting that names its split.
    """
    run = recorded(folder)
    if (run.get("dataset_name"), run.get(split_name)) != (data, split):
        return []
    return [
        f"note         the run was trained on split {split} of {data}: nothing here is held out"
    ]
