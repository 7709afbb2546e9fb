"""Columns under names of the user's own: what the flags ``--chosen_column`` and its siblings name
takes the place that a format knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from diffdpo.errors import UserError, nearest, short

# A data set, or what has the same methods for columns.
Table = TypeVar("Table", bound=Any)


def given_columns(settings: Any, roles: Iterable[str]) -> dict[str, str | None]:
    """The columns that the flags ``--{role}_column`` of some settings name, by role."""
    return {role: getattr(settings, f"{role}_column") for role in roles}


def renamed(
    dataset: Table, given: Mapping[str, str | None], names: Mapping[str, str] | None = None
) -> Table:
    """The data set with the columns that flags name under the names that a format reads.

    ``given`` holds the value of ``--{role}_column`` for every role ("chosen", "rejected", "prompt",
    "label"), None where the flag is left out. ``names`` gives the format's column for a role, where
    that is not the role itself. Another column that has such a name already is left out.

    Raises UserError for a column that is not there, or that two flags name.
    """
    check_given(dataset.column_names, given)
    moved = {column: (names or {}).get(role, role) for role, column in given.items() if column}
    in_the_way = [
        name for name in moved.values() if name in dataset.column_names and name not in moved
    ]
    return dataset.remove_columns(in_the_way).rename_columns(moved)


def selected(dataset: Table, columns: list[str]) -> Table:
    """The data set with these columns alone; as it is where there are none.

    Raises UserError for a column that is not there.
    """
    there = dataset.column_names
    if missing := lacking(there, columns):
        raise UserError(
            f"--dataset_columns: the data have no column {missing}; there are {listed(there)}"
        )
    if not columns:
        return dataset
    return dataset.remove_columns([name for name in there if name not in columns])


def check_given(columns: list[str], given: Mapping[str, str | None]) -> None:
    """Raises UserError where a flag names a column that is not there, or two flags the same one."""
    mistakes, flag_of = [], dict[str, str]()
    for role, column in given.items():
        if column is None:
            continue
        if column not in columns:
            mistakes.append(
                f"--{role}_column {short(column)}: the data have no such column"
                f"{nearest(column, columns)}; there are {listed(columns)}"
            )
        elif column in flag_of:
            mistakes.append(
                f"--{role}_column {short(column)}: is the column of --{flag_of[column]}_column"
                " already; name another"
            )
        flag_of.setdefault(column, role)
    if mistakes:
        raise UserError(*mistakes)


def lacking(columns: list[str], needed: Iterable[str]) -> str:
    """The columns of ``needed`` that are not there, each with the one that comes near it."""
    return ", ".join(f"{name}{nearest(name, columns)}" for name in needed if name not in columns)


def closest(columns: list[str], formats: Mapping[str, Iterable[str]]) -> str:
    """The format that lacks the smallest share of its columns, and what it lacks; for the error
    line where no format fits. ``formats`` gives each one's columns by its name."""

    def missing(name: str) -> float:
        needed = list(formats[name])
        return sum(column not in columns for column in needed) / len(needed)

    name = min(formats, key=missing)
    return f"the nearest, {name}, lacks {lacking(columns, formats[name])}"


def listed(columns: Iterable[str], letters: int = 200) -> str:
    """The names of columns for an error line. They are foreign text, and there may be many."""
    return short(", ".join(short(column, 40) for column in columns), letters)
