"""Comparisons from files: csv, tsv, jsonl and parquet, read batch by batch."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from diffdpo.errors import UserError, short
from diffdpo.ranking.columns import BATCH, Batches, columns_of, roles_of
from diffdpo.ranking.tally import GameTally

# Fewer where every row is an object of its own: the garbage collector walks all that are alive,
# again and again.
TEXT_BATCH = 1 << 14


def from_file(path: Path, names: Mapping[str, str], tally: GameTally) -> Batches:
    """The comparisons of a file, by the reader for its ending; ``tally`` hears of rows that cannot
    be used. Raises UserError where there is none, or it cannot be read."""
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
    """The rows of a file with fields, a batch at a time, with their lines."""
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
            # Row by row: to hold the rows of a batch as lists takes three times as long.
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
    """The objects of a file that has one on each line, a batch at a time, with their lines."""
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
                yield columns_of(records, present, names, str(path)), lines
        if present:
            tally.unread(present, roles_of(present, names, str(path)))


def _parquet(path: Path, names: Mapping[str, str], tally: GameTally) -> Batches:
    """The rows of a table, a batch at a time, with their numbers."""
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
