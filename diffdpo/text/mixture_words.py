"""Data sets as recipes of TRL and alignment-handbook list them, as settings of this package."""

from __future__ import annotations

from typing import Any

from diffdpo.errors import short

# What an entry of a list of data sets may say, by TRL's name and alignment-handbook's.
ENTRY = {
    "path": "dataset_name",
    "id": "dataset_name",
    "name": "dataset_config",
    "config": "dataset_config",
    "split": "dataset_train_split",
    "columns": "dataset_columns",
}
SHARES = ("fraction", "weight")
ONE = "{}: {} data sets; name one, or make one file of them"


def read_datasets(value: Any) -> dict[str, Any]:
    """TRL's list of data sets. Raises ValueError for more than one, and for what is no entry."""
    return read_entries("datasets", value)


def read_entries(name: str, value: Any) -> dict[str, Any]:
    """The settings of the one data set in the list ``name``."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"{name}: a list of data sets is wanted, each with its path and split")
    if len(value) != 1:
        raise ValueError(ONE.format(name, len(value)))
    (entry,) = value
    settings: dict[str, Any] = {}
    for key, item in entry.items():
        if item is None:
            continue
        if key in SHARES:
            check_whole(f"{name}: {key}", item)
        elif key not in ENTRY:
            known = ", ".join([*ENTRY, *SHARES])
            raise ValueError(f"{name}: {short(key)} is unknown; known: {known}")
        else:
            settings[ENTRY[key]] = item
    if "dataset_name" not in settings:
        raise ValueError(f"{name}: an entry has no path")
    return settings


def check_whole(name: str, share: Any) -> None:
    """Raises ValueError for a share of a data set that is not all of it."""
    if share != 1:
        raise ValueError(f"{name} {short(share)}: --max_train_samples takes a number of rows")


def read_mixture(value: Any) -> dict[str, Any]:
    """alignment-handbook's mixture: data sets, and the size of what is held out of them."""
    if not isinstance(value, dict):
        raise ValueError("dataset_mixture: datasets are wanted, each with its id and split")
    for key in value:
        if key not in ("datasets", "test_split_size", "seed"):
            raise ValueError(f"dataset_mixture: {short(key)} is unknown")
    if value.get("test_split_size"):
        raise ValueError(
            "dataset_mixture: test_split_size: name rows that are held out with"
            " --dataset_test_split or --eval_dataset_name"
        )
    return read_entries("dataset_mixture", value.get("datasets"))


def read_mixer(value: Any) -> dict[str, Any]:
    """alignment-handbook's older mixture: the share of each data set by its name."""
    if not isinstance(value, dict) or not value:
        raise ValueError("dataset_mixer: names of data sets with shares are wanted")
    if len(value) != 1:
        raise ValueError(ONE.format("dataset_mixer", len(value)))
    ((name, share),) = value.items()
    check_whole(f"dataset_mixer: {short(name)}", share)
    return {"dataset_name": name}
