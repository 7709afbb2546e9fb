"""Writes pairs with a record of what made them, all of it or nothing.

The record stands in ``make_pairs.json`` and, for rows that travel without it, in the schema of each
file under ``diffdpo.make_pairs``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Features
from pyarrow import parquet

from diffdpo.cache.claims import claimed
from diffdpo.cache.filling import POLL
from diffdpo.data.made_pairs import IN_SCHEMA, RECORD
from diffdpo.engine.console import say
from diffdpo.engine.files import atomic_files, tidy, write_atomically
from diffdpo.errors import UserError, short
from diffdpo.report.evaluation import writing

SPLIT = "train"  # of the rows that are written
PAIRS_A_FILE = 1000
AT_ONCE = 32  # rows in memory

Facts = Mapping[str, Any]
Row = Mapping[str, Any]


def is_finished(folder: Path, facts: Facts) -> bool:
    """Whether the pairs that ``facts`` make are in ``folder`` already.

    Raises UserError where it holds others, or rows without a record.
    """
    path = folder / RECORD
    rows = sorted(folder.glob(f"{SPLIT}-*.parquet"))
    if not path.exists():
        if rows:
            raise UserError(f"--output_dir {folder}: holds {rows[0].name} already; choose another")
        return False
    try:
        record = json.loads(path.read_text())
        then, files = record["made_by"], [folder / name for name in record["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({short(repr(error))}); move it away") from error
    now = json.loads(json.dumps(facts))
    if other := differing(then, now):
        raise UserError(
            f"--output_dir {folder}: holds pairs that were made with another"
            f" {short(', '.join(other))}; choose another folder"
        )
    return all(file.exists() for file in files)


def differing(then: Any, now: Any) -> list[str]:
    """The names of the entries in which two records differ, also of those inside entries."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return []
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    return [inner for n in names for inner in differing(then.get(n), now.get(n)) or [n]]


def write_once(folder: Path, facts: Facts, write: Callable[[], None]) -> None:
    """Let one process ``write`` the pairs, and the others wait until they are there."""
    while not is_finished(folder, facts):
        with writing(folder), claimed(folder / RECORD) as ours:
            if ours:
                if not is_finished(folder, facts):
                    tidy(folder)
                    write()
                return
        time.sleep(POLL)


def write_pairs(
    folder: Path,
    rows: Iterable[Row],
    features: Features,
    record: Mapping[str, Any],
    pages: Mapping[str, bytes],
) -> None:
    """Write the rows in files of a thousand, the record, and ``pages`` by the names of their files.

    ``AT_ONCE`` rows are in memory.
    """
    with atomic_files(folder) as draft:
        files = list(write_rows(draft, iter(rows), features, record))
        if not files:
            raise UserError("pairs: one of the two is empty in every pair; nothing can be learned")
        content = json.dumps({**record, "files": files}, indent=2, ensure_ascii=False)
        for name, page in pages.items():
            (draft / name).write_bytes(page)
        # Before the files that it names: those of a killed process are then known as its own.
        write_atomically(folder / RECORD, content + "\n")
    say(f"written      {folder}: {', '.join([*files[:1], *pages, RECORD])}")


def write_rows(
    folder: Path, rows: Iterator[Row], features: Features, record: Mapping[str, Any]
) -> Iterator[str]:
    """Write rows to parquet files; yields the name of each file once it is whole."""
    schema = features.arrow_schema
    own = {IN_SCHEMA: json.dumps(record).encode()}
    schema = schema.with_metadata({**(schema.metadata or {}), **own})
    first = list(islice(rows, 1))
    number = 0
    while first:
        name = f"{SPLIT}-{number:05d}.parquet"
        left = islice(rows, PAIRS_A_FILE - 1)
        with parquet.ParquetWriter(folder / name, schema) as file:
            while chunk := [*first, *islice(left, AT_ONCE - len(first))]:
                file.write_table(pyarrow.Table.from_pylist(chunk, schema=schema))
                first = []
        yield name
        first, number = list(islice(rows, 1)), number + 1
