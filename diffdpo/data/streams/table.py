"""A data set in shards as a table of which a row is read at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from datasets import Dataset

from diffdpo.data.streams.files import shards_of
from diffdpo.data.streams.order import buffered_order
from diffdpo.data.streams.parquet import ParquetShards
from diffdpo.data.streams.tar import TarShards
from diffdpo.engine.digests import digest
from diffdpo.errors import UserError

MB, GB = 10**6, 10**9
FOLDER = "streams"  # in --precompute_dir


class Shards(Protocol):
    """What the kinds of shards have in common. Rows are numbered through all files."""

    kind: str
    files: list[Path]
    column_names: list[str]
    first_G: np.ndarray  # first row of each group that is read together; the number of rows

    @property
    def marks(self) -> list[bytes]: ...
    def __len__(self) -> int: ...
    def shard(self, row: int) -> tuple[int, int]: ...
    def held(self, columns: Sequence[str]) -> Dataset: ...
    def keep(self, rows_N: np.ndarray, columns: Sequence[str], buffer: int) -> None: ...
    def each(self, rows_N: np.ndarray, column: str) -> Iterator[tuple[int, Any]]: ...
    def cell(self, row: int, column: str) -> Any: ...
    def record(self, row: int) -> dict[str, Any]: ...


class StreamTable:
    """The rows of shards, with columns under other names where these were given."""

    def __init__(self, shards: Shards, stored: Mapping[str, str], buffer: int) -> None:
        """``stored`` has for each column its name in the shards; ``buffer`` is in rows."""
        self.shards, self.stored, self.buffer = shards, dict(stored), buffer

    @classmethod
    def open(
        cls,
        name: str,
        split: str,
        config: str | None,
        flag: str,
        precompute_dir: str,
        buffer: int,
        quiet: bool,
    ) -> StreamTable:
        """The table of the data set ``name``; ``flag`` is the one that names the split.

        Raises UserError where there is none, a shard is damaged, or no row is there.
        """
        files = shards_of(name, split, config, flag)
        folder = Path(precompute_dir).expanduser() / FOLDER
        shards: Shards
        if files[0].suffix == ".tar":
            shards = TarShards(files, folder, quiet)
        else:
            shards = ParquetShards(files, folder)
        if not len(shards):
            raise UserError(f"data set {name}, split {split}: has no rows")
        return cls(shards, {column: column for column in shards.column_names}, buffer)

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.record(row)

    @property
    def column_names(self) -> list[str]:
        """The columns."""
        return list(self.stored)

    def remove_columns(self, names: str | Sequence[str]) -> StreamTable:
        """The table without some columns."""
        gone = {names} if isinstance(names, str) else set(names)
        kept = {name: own for name, own in self.stored.items() if name not in gone}
        return StreamTable(self.shards, kept, self.buffer)

    def rename_columns(self, names: Mapping[str, str]) -> StreamTable:
        """The table with other names of some columns."""
        renamed = {names.get(name, name): own for name, own in self.stored.items()}
        return StreamTable(self.shards, renamed, self.buffer)

    def held(self, columns: Sequence[str]) -> Dataset:
        """These columns of all rows, in memory: for numbers, not for pictures."""
        rows = self.shards.held([self.stored[name] for name in columns])
        return rows.rename_columns({self.stored[n]: n for n in columns if self.stored[n] != n})

    def keep(self, rows_N: np.ndarray, columns: Sequence[str]) -> None:
        """Only these rows, ascending, and these columns of them will be read from now on."""
        self.shards.keep(rows_N, [self.stored[name] for name in columns], self.buffer)

    def each(self, rows_N: np.ndarray, column: str) -> Iterator[tuple[int, Any]]:
        """Those of these rows, ascending, that can be read, with what they hold in a column."""
        return self.shards.each(rows_N, self.stored[column])

    def cell(self, row: int, column: str) -> Any:
        """What a row holds in a column. Raises ValueError where that cannot be read."""
        return self.shards.cell(row, self.stored[column])

    def record(self, row: int) -> dict[str, Any]:
        """What a row holds, by column. Raises ValueError where that cannot be read."""
        values = self.shards.record(row)
        return {name: values[own] for name, own in self.stored.items() if own in values}

    def folder(self, row: int) -> Path:
        """The folder of the file that holds a row: names of files in it are relative to that."""
        return self.shards.files[self.shards.shard(row)[0]].parent

    def named(self, row: int) -> str:
        """A row for a line to the user."""
        shard, number = self.shards.shard(row)
        return f"row {row} ({self.shards.files[shard].name}, row {number})"

    def digest(self, *others: bytes) -> str:
        """A name that changes when the shards do, or any of the ``others``."""
        return digest(*self.shards.marks, *others)

    def order(self, rows_N: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """The permutation of the rows kept, ascending, in which an epoch visits them."""
        kept_G = np.diff(np.searchsorted(rows_N, self.shards.first_G))
        return buffered_order(kept_G, seed, epoch, self.buffer)

    def line(self, rows: int) -> str:
        """What is streamed, for the start of a run over so many ``rows``."""
        sizes = sum(file.stat().st_size for file in self.shards.files)
        groups = np.diff(self.shards.first_G)
        held = min(self.buffer, rows) / len(self) * sizes
        where = "of file, unpacked on disk" if self.shards.kind == "parquet" else "of file"
        return (
            f"{len(self):,} rows in {len(self.shards.files):,} {self.shards.kind} files,"
            f" {in_bytes(sizes)}; shuffled by groups of up to {groups.max():,} rows and within"
            f" {self.buffer:,} rows, about {in_bytes(held)} {where}"
        )


def in_bytes(count: float) -> str:
    """A size in MB or GB."""
    return f"{count / GB:.3g} GB" if count >= GB else f"{count / MB:.3g} MB"
