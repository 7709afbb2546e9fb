"""What a run recorded of its settings, for the commands that judge its result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffdpo.config import Layer, read_yaml

FILE = "config.yaml"


def recorded(folder: str | None) -> dict[str, Any]:
    """The settings of the run in ``folder``; none where it recorded nothing. Raises UserError
    where they cannot be read."""
    path = Path(folder or "") / FILE
    return read_yaml(str(path)) if folder and path.is_file() else {}


def layer_of_run(folder: str, settings: Mapping[str, Any]) -> Layer | None:
    """Those of ``settings`` that say something, as a layer that is told of."""
    content = {name: value for name, value in settings.items() if value}
    return Layer(str(Path(folder) / FILE), content, "from the run") if content else None


def chosen(
    run: Mapping[str, Any], given: Mapping[str, Any], tied: Mapping[str, Iterable[str]]
) -> dict[str, Any]:
    """The run's settings by name. Those under a key of ``tied`` belong to the model or data of that
    name, and are left out where another one is given."""
    return {
        name: run.get(name)
        for key, names in tied.items()
        if key not in given or str(given[key]) == str(run.get(key))
        for name in (key, *names)
    }


def trained_on(folder: str | None, data: str | None, split: str, split_name: str) -> list[str]:
    """A line where the rows under judgement are those that the run in ``folder`` was trained on;
    ``split_name`` is the setting that names its split."""
    run = recorded(folder)
    if (run.get("dataset_name"), run.get(split_name)) != (data, split):
        return []
    return [
        f"note         the run was trained on split {split} of {data}: nothing here is held out"
    ]
