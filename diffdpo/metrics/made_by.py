"""Which rewards made the pairs that a run was trained on: such a reward praises its own taste."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffdpo.data.made_pairs import RECORD
from diffdpo.engine.run_config import recorded_by
from diffdpo.errors import UserError, short


def judges_of(run: str) -> set[str]:
    """The names of the rewards that made the training pairs of a run; none where the pairs have no
    record of any.

    Raises UserError where there is a record that cannot be read.
    """
    settings = recorded_by(run)
    data = settings.get("dataset_name") or settings.get("train_data_dir") or []
    names = data if isinstance(data, list) else [data]
    names += [entry.get("path") for entry in settings.get("datasets") or []]
    return {judge for name in names for judge in judges_of_data(str(name))}


def judges_of_data(name: str) -> set[str]:
    """The names of the rewards that made the pairs of a data set."""
    place = Path(name)
    path = (place.parent if place.is_file() else place) / RECORD
    if not path.is_file():
        return set()
    try:
        rewards: Any = json.loads(path.read_text())["rewards"]
        return {str(name) for name in rewards}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({short(repr(error))}); move it away") from error


def headline_of(names: Iterable[str], made: set[str], asked: str | None) -> str:
    """The reward on top: the one that is asked for, else the first that made no training pairs.

    Raises UserError where all of them did, or where the one asked for is not among them.
    """
    rewards = list(names)
    if asked is not None:
        if asked not in rewards:
            raise UserError(f"--headline {asked}: is not among {', '.join(rewards)}")
        return asked
    held_out = [name for name in rewards if name not in made]
    if not held_out:
        raise UserError(
            f"--reward {' '.join(rewards)}: made the training pairs, and would praise its own"
            f" taste; name another reward, or --headline {rewards[0]} to take it all the same"
        )
    return held_out[0]
