"""The shards of a table: fixed ranges of rows, each a file that is written whole and sealed.

How many rows a shard has follows from what a row takes: few files of a size that is read and
written easily, and little work in each, since a kill loses at most one shard a process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from datasets import Features
from datasets.arrow_writer import ArrowWriter
from datasets.table import MemoryMappedTable

from diffdpo.batched import batched
from diffdpo.cache.seal import Shard, seal
from diffdpo.engine.files import atomic_file

SHARDS = 16  # of a small table, which several processes share
STEP = 16  # shards are a multiple of it, so that batches of the usual sizes fill them evenly
LARGEST = 512  # rows of a shard where nothing is known of them
BYTES = 64 * 2**20  # of a shard
PASSES = 8192  # of one item through a network: minutes, with the largest of them
# Of a table: each is opened at every start and mapped as long as a run lasts, and systems allow
# 65,530 maps.
MOST = 2048
HELD = 16 * 2**20  # bytes in memory before they are written
Row: TypeAlias = "dict[str, Any] | pa.Table"  # a row, or several at once, all of one shard
Numbered: TypeAlias = "tuple[int, Row]"  # with the number of the row, or of the first
NAME = re.compile(r"(\d{9,})-(\d{9,})\.arrow")


@dataclass(frozen=True)
class Cost:
    """What a row takes: bytes of disk, and items that go through a network. 0: not known.

    ``advice`` says what makes rows smaller.
    """

    bytes: int = 0
    passes: int = 0
    advice: str = ""

    def largest(self) -> int:
        """The rows of a shard at most, by size and by work."""
        limits = [BYTES // self.bytes] if self.bytes else []
        limits += [PASSES // self.passes] if self.passes else []
        return max(1, min(limits, default=LARGEST) // STEP) * STEP

    @property
    def held(self) -> int:
        """The rows in memory before they are written."""
        return max(1, min(1000, HELD // max(1, self.bytes)))


UNKNOWN = Cost()


def shards(rows: int, largest: int = LARGEST) -> list[range]:
    """The ranges of rows of the shards, a function of the number of rows alone."""
    # Not of the number of processes: another number must find the same files.
    most = STEP * -(-rows // (MOST * STEP))
    return batched(range(rows), min(max(largest, most), STEP * -(-rows // (SHARDS * STEP))))


def growing(rows: int, largest: int) -> list[range]:
    """The same for a table that a longer run makes longer: what more rows change is the last shard
    alone. There are 16 of each size, and sizes double."""
    found: list[range] = []
    size, first = STEP, 0
    while first < rows:
        for _ in range(SHARDS):
            found.append(range(first, first + size))
            first += size
        size = min(2 * size, largest)
    return [range(s.start, min(s.stop, rows)) for s in found if s.start < rows]


def growing_in(folder: Path, rows: int, cost: Cost) -> list[range]:
    """The ranges of the shards of such a table. The last has more rows than were asked for where a
    longer run has stored them."""
    *others, last = growing(rows, cost.largest())
    names = [NAME.fullmatch(path.name) for path in folder.glob(f"{last.start:09d}-*.arrow")]
    stops = [int(name[2]) for name in names if name and int(name[2]) >= last.stop]
    return [*others, range(last.start, min(stops, default=last.stop))]


def ranges_in(folder: Path, rows: int, cost: Cost) -> list[range]:
    """The ranges of the shards of a table: those of the shards that are there, which an earlier
    version may have cut otherwise."""
    for path in folder.glob("*.arrow"):
        if (name := NAME.fullmatch(path.name)) and int(name[2]) < rows:
            return batched(range(rows), max(1, int(name[2]) - int(name[1])))
    return shards(rows, cost.largest())


def shard_path(folder: Path, span: range) -> Path:
    """The file of one range of rows; names sort in the order of the rows."""
    return folder / f"{span.start:09d}-{span.stop:09d}.arrow"


def read_shard(folder: Path, span: range) -> MemoryMappedTable | None:
    """A stored shard; None where it is missing, or Arrow cannot read it."""
    # No data set of its own: the library looks for a name by pickling each, for longer than it
    # takes to read one.
    try:
        shard = MemoryMappedTable.from_file(str(shard_path(folder, span)))
    except (OSError, ValueError):
        return None
    return shard if len(shard) == len(span) else None


def counted(folder: Path, span: range, state: Shard) -> Shard:
    """The state of a shard, told by its bytes, after a look at its number of rows."""
    # The bytes come first: Arrow takes lengths in a file on trust, and may end the process at a
    # wrong one.
    if state in (Shard.WHOLE, Shard.UNPROVEN) and read_shard(folder, span) is None:
        return Shard.DAMAGED
    return state


def write_shard(path: Path, features: Features, rows: Iterable[Row], held: int) -> None:
    """Store the rows of a shard, whole or not at all, with ``held`` rows in memory."""
    with atomic_file(path) as draft:
        with ArrowWriter(path=str(draft), features=features, writer_batch_size=held) as writer:
            for row in rows:
                (writer.write_table if isinstance(row, pa.Table) else writer.write)(row)
            writer.finalize()
        seal(draft)


def numbered(span: range, rows: Iterable[Row]) -> Iterator[Numbered]:
    """The rows of a range, each with its number; an Arrow table with that of its first row."""
    number = span.start
    for row in rows:
        yield number, row
        number += count(row)


def noted(rows: Iterable[Numbered], span: range, bar: Any) -> Iterator[Row]:
    """The rows of a range, which a bar counts. Raises RuntimeError at the first that is missing."""
    due = span.start
    for number, row in rows:
        if number != due:
            raise RuntimeError(f"row {due}: row {number} came in its place")
        yield row
        due += count(row)
        bar.update(count(row))
    if due != span.stop:
        raise RuntimeError(f"row {due} of {span.start} to {span.stop - 1}: did not come")


def first_of(rows: Iterator[Numbered], rest: int) -> Iterator[Numbered]:
    """The next ``rest`` rows."""
    while rest > 0 and (row := next(rows, None)) is not None:
        yield row
        rest -= count(row[1])


def count(row: Row) -> int:
    """The number of rows: one, or those of an Arrow table."""
    return len(row) if isinstance(row, pa.Table) else 1
