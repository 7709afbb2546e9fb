"""Comparisons from files, tables, arrays and iterables, read batch by batch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from diffdpo.errors import UserError, short
from diffdpo.ranking.tally import Games, GameTally

ROLES = ("winner", "loser", "first", "second", "outcome", "count", "weight", "tie")
DEFAULTS: dict[str, float | None] = {"outcome": 1.0, "count": 1.0, "weight": 1.0, "tie": 0.0}
BATCH = 1 << 18
# Fewer where every row is an object of its own: the garbage collector walks all that are alive,
# again and again.
TEXT_BATCH = 1 << 14

Batches = Iterator[tuple[dict[str, Any], Sequence[int]]]


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
        batches = _file(path, names, tally)
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


def _file(path: Path, names: Mapping[str, str], tally: GameTally) -> Batches:
    readers = {
        ".csv": _csv,
        ".tsv": _csv,
        ".jsonl": _jsonl,
        ".ndjson": _jsonl,
        ".parquet": _parquet,
    }
    if not path.is_file():
        raise UserError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    ending = path.suffix.lower()
    if ending not in readers:
        raise UserError(
            f"{path}: files ending in {path.suffix or 'nothing'} are not read ({', '.join(readers)}"
            " are)"
        )
    try:
        yield from readers[ending](path, names, tally)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read (not UTF-8 text)") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({short(error)})") from error


def _csv(path: Path, names: Mapping[str, str], tally: GameTally) -> Batches:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = _strict(file, path)
        _, first = next(rows, (0, []))
        header = [name.strip() for name in first]
        roles = roles_of(header, names, str(path))
        tally.unread(header, roles)
        position = {role: header.index(name) for role, name in roles.items()}
        while True:
            table: dict[str, list[str]] = {role: [] for role in position}
            fields = [(column.append, position[role]) for role, column in table.items()]
            lines, read = [], 0
            for line, row in islice(rows, TEXT_BATCH):
                read += 1
                if len(row) == len(header):
                    lines.append(line)
                    for add, at in fields:
                        add(row[at].strip())
                elif row:
                    tally.reject(line, f"{len(row)} fields where the header has {len(header)}")
            if not read:
                return
            yield table, lines


def _strict(file: Iterable[str], path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv or tsv file, each with the line that it ends in.

    Raises UserError for a quotation mark that is never closed: it would take the rows behind it
    for one cell.
    """
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{path}: cannot be read up to line {rows.line_num} ({short(error)})"
        ) from error


def _jsonl(path: Path, names: Mapping[str, str], tally: GameTally) -> Batches:
    with path.open(encoding="utf-8-sig") as file:
        numbered = enumerate(file, start=1)
        present: dict[str, None] = {}
        while batch := list(islice(numbered, TEXT_BATCH)):
            records, lines = [], []
            for line, text in batch:
                try:
                    record = json.loads(text) if text.strip() else None
                except (ValueError, RecursionError) as error:
                    tally.reject(line, f"not JSON ({short(getattr(error, 'msg', error))})")
                    continue
                if isinstance(record, dict):
                    records.append(record)
                    lines.append(line)
                elif record is not None:
                    tally.reject(line, "not an object")
            if records:
                yield _columns(records, present, names, str(path)), lines
        if present:
            tally.unread(present, roles_of(present, names, str(path)))


def _columns(
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


def _parquet(path: Path, names: Mapping[str, str], tally: GameTally) -> Batches:
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
        roles = roles_of(schema.names, names, str(path))
        tally.unread(schema.names, roles)
        # Decoding names to codes directly saves making a string per row.
        text = [c for c in set(roles.values()) if pyarrow.types.is_string(schema.field(c).type)]
        file = pyarrow.parquet.ParquetFile(path, read_dictionary=text)
        start = 1
        for batch in file.iter_batches(BATCH, columns=list(set(roles.values()))):
            lines = range(start, start + batch.num_rows)
            yield (
                {
                    role: batch.column(batch.schema.get_field_index(name))
                    for role, name in roles.items()
                },
                lines,
            )
            start += batch.num_rows
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: cannot be read ({short(error)})") from error


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
            yield _columns(batch, present, names, "comparisons"), lines
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
