"""Comparisons from tables, arrays and iterables in memory, or from a file, as games."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffdpo.errors import UserError, short
from diffdpo.ranking.columns import BATCH, ROLES, Batches, columns_of, roles_of
from diffdpo.ranking.files import from_file
from diffdpo.ranking.tally import Games, GameTally


def read_comparisons(
    comparisons: Any,
    *,
    beside: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    use_order: bool = False,
    progress: bool = False,
) -> Games:
    """All comparisons, added up. ``beside`` holds columns that are not in the table itself;
    ``columns`` maps a role to the name of its column."""
    if isinstance(comparisons, Games):
        return comparisons
    names = {role: role for role in ROLES} | dict(columns or {})
    beside = {role: column for role, column in (beside or {}).items() if column is not None}
    if isinstance(comparisons, (str, Path)):
        path = Path(comparisons)
        tally = GameTally(
            use_order=use_order,
            source=str(path),
            unit="row" if path.suffix.lower() == ".parquet" else "line",
        )
        batches = from_file(path, names, tally)
    else:
        tally = GameTally(use_order=use_order, source="comparisons")
        batches = _memory(comparisons, beside, names)
    with tqdm(
        desc="reading", unit=" rows", unit_scale=True, disable=None if progress else True
    ) as bar:
        for batch, lines in batches:
            tally.add(batch, lines)
            bar.update(len(lines))
    return tally.finish()


def _memory(comparisons: Any, beside: Mapping[str, Any], names: Mapping[str, str]) -> Batches:
    """Tables (pandas, arrow, datasets, a dict of columns), arrays, or an iterable of pairs, triples
    or records."""
    columns = getattr(comparisons, "column_names", None)
    if columns is None:
        columns = getattr(
            comparisons, "columns", comparisons if isinstance(comparisons, Mapping) else None
        )
    if columns is not None:
        roles = roles_of(
            [*columns, *beside], {**names, **{role: role for role in beside}}, "comparisons"
        )
        table = {
            role: beside[role] if role in beside else comparisons[name]
            for role, name in roles.items()
        }
        yield from _whole({role: _plain(column) for role, column in table.items()})
    elif hasattr(comparisons, "__array__"):
        array = np.asarray(comparisons)
        if array.ndim != 2 or array.shape[1] not in (2, 3):
            raise UserError(
                "comparisons: an array needs two columns (winner, loser) or three, has shape"
                f" {array.shape}"
            )
        table = dict(zip(("winner", "loser", "count"), array.T, strict=False))
        yield from _whole({**table, **_arguments(beside)})
    elif beside:
        yield from _whole({**_unzipped(list(comparisons)), **_arguments(beside)})
    else:
        yield from _iterated(comparisons, names)


def _plain(column: Any) -> Any:
    """A pandas column as an array, a ``datasets`` column as a list; arrays and arrow columns stay
    as they are, because the tally reads them directly."""
    if hasattr(column, "to_numpy") and not hasattr(column, "dictionary_encode"):
        return column.to_numpy()
    return (
        column
        if isinstance(column, np.ndarray) or hasattr(column, "dictionary_encode")
        else list(column)
    )


def _arguments(beside: Mapping[str, Any]) -> dict[str, Any]:
    return {role: _plain(column) for role, column in beside.items()}


def _whole(table: dict[str, Any]) -> Batches:
    lengths = {role: len(column) for role, column in table.items()}
    if len(set(lengths.values())) != 1:
        shown = ", ".join(f"{role} {length}" for role, length in lengths.items())
        raise UserError(f"comparisons: columns of different lengths ({shown})")
    yield table, range(next(iter(lengths.values())))


def _iterated(comparisons: Iterable[Any], names: Mapping[str, str]) -> Batches:
    try:
        rows, start = iter(comparisons), 0
    except TypeError:
        raise UserError(
            f"comparisons: expected pairs, a table or a path, got {type(comparisons).__name__}"
        ) from None
    present: dict[str, None] = {}
    while batch := list(islice(rows, BATCH)):
        lines = range(start, start + len(batch))
        if isinstance(batch[0], Mapping):
            yield columns_of(batch, present, names, "comparisons"), lines
        else:
            yield _unzipped(batch), lines
        start += len(batch)


def _unzipped(rows: list[Any]) -> dict[str, Any]:
    """Pairs, or triples with a count, as columns; a pair among triples counts once."""
    # Sets of types and lengths, because a million rows should not be looked at one by one in
    # Python.
    sized = all(hasattr(kind, "__len__") and kind is not str for kind in set(map(type, rows)))
    lengths = set(map(len, rows)) if sized else set()
    if not sized or not lengths <= {2, 3}:
        at = next(
            k
            for k, row in enumerate(rows)
            if isinstance(row, str) or getattr(row, "__len__", int)() not in (2, 3)
        )
        raise UserError(
            f"comparisons: row {at} is {short(repr(rows[at]))}, not (winner, loser) or (winner,"
            " loser, count)"
        )
    columns: dict[str, Any] = {
        "winner": [row[0] for row in rows],
        "loser": [row[1] for row in rows],
    }
    return (
        columns | {"count": [row[2] if len(row) == 3 else 1 for row in rows]}
        if 3 in lengths
        else columns
    )
