"""The columns of a table of comparisons: which role each has, and records as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from diffdpo.errors import UserError, short

ROLES = ("winner", "loser", "first", "second", "outcome", "count", "weight", "tie")
DEFAULTS: dict[str, float | None] = {"outcome": 1.0, "count": 1.0, "weight": 1.0, "tie": 0.0}
BATCH = 1 << 18  # rows at once

Batches = Iterator[tuple[dict[str, Any], Sequence[int]]]


def roles_of(present: Iterable[str], names: Mapping[str, str], source: str) -> dict[str, str]:
    """Role → column name, for the roles a table has.

    Raises UserError where it does not say who won, or lacks a column that was renamed.
    """
    present = list(present)
    roles = {role: name for role, name in names.items() if name in present}
    if {"winner", "loser"} <= roles.keys():
        roles.pop("second", None)
    elif {"first", "second", "outcome"} <= roles.keys():
        roles = {role: name for role, name in roles.items() if role not in ("winner", "loser")}
    else:
        raise UserError(
            f"{source}: needs the columns `{names['winner']}` and `{names['loser']}` (or"
            f" `{names['first']}`, `{names['second']}` and `{names['outcome']}`); found"
            f" {shown(present)}"
        )
    if absent := [name for role, name in names.items() if name not in (role, *present)]:
        raise UserError(f"{source}: has no column {', '.join(absent)}; found {shown(present)}")
    twice = [name for name in roles.values() if present.count(name) > 1]
    if twice:
        raise UserError(f"{source}: has several columns {twice[0]}")
    return roles


def shown(names: Iterable[Any]) -> str:
    """Names of columns for a line."""
    return short(", ".join(map(str, names))) or "none"


def columns_of(
    records: Sequence[Mapping[str, Any]],
    present: dict[str, None],
    names: Mapping[str, str],
    source: str,
) -> dict[str, Any]:
    """Records as columns. A record may lack an optional field that another one has, so the fields
    are those of all of them; ``present`` collects them from batch to batch."""
    present.update(dict.fromkeys(chain.from_iterable(records)))
    roles = roles_of(present, names, source)
    return {
        role: [record.get(names[role], DEFAULTS.get(role)) for record in records] for role in roles
    }
