"""Shards of parquet: their footers give the row groups at once; a group is unpacked when the first
of its rows is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from datasets import Dataset
from pyarrow import parquet

from diffdpo.data.columns import listed
from diffdpo.data.streams.contents import file_marks
from diffdpo.data.streams.unpacked import Unpacked
from diffdpo.engine.digests import digest
from diffdpo.errors import UserError, short

AT_ONCE = 64  # rows that are unpacked together
RUN = 1 << 14  # rows of a column that are read together
NO_TEXT = object()
SLACK = 1.25  # workers are not at the same row: groups stay a little longer than the order needs


class ParquetShards:
    """The rows of parquet files, one after another.

    Raises UserError where one is damaged, or has other columns than the first.
    """

    kind = "parquet"

    def __init__(self, files: Sequence[Path], folder: Path) -> None:
        """What is unpacked lies in ``folder``."""
        self.files, self.folder = list(files), folder
        schema, rows, shards, numbers = None, [], [], []
        for shard, file in enumerate(self.files):
            footer = footer_of(file)
            found = footer.schema.to_arrow_schema()
            schema = schema or found
            check_columns(self.files[0], schema, file, found)
            groups = range(footer.num_row_groups)
            rows += [footer.row_group(group).num_rows for group in groups]
            shards += [shard] * len(groups)
            numbers += list(groups)
        assert schema is not None, "there is a file"
        self.column_names = list(schema.names)
        self.shard_G, self.number_G = np.array(shards, dtype=int), np.array(numbers, dtype=int)
        self.first_G = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self.kept_N: np.ndarray | None = None
        self.columns = self.column_names
        self.unpacked = Unpacked(folder / f"unpacked-{digest(*self.marks)}", 2)

    def __len__(self) -> int:
        return int(self.first_G[-1])

    @cached_property
    def marks(self) -> list[bytes]:
        """What tells these shards from others."""
        return [self.first_G.tobytes(), *file_marks(self.files)]

    def shard(self, row: int) -> tuple[int, int]:
        """The file that holds a row, and the row's number in it."""
        shard = int(self.shard_G[self.group(row)])
        return shard, row - int(self.first_G[np.searchsorted(self.shard_G, shard)])

    def group(self, row: int) -> int:
        """The row group that holds a row."""
        return int(np.searchsorted(self.first_G, row, side="right")) - 1

    def held(self, columns: Sequence[str]) -> Dataset:
        """These columns of all rows, in memory."""
        parts = [parquet.ParquetFile(file).read(columns=list(columns)) for file in self.files]
        return Dataset(pyarrow.concat_tables(parts, promote_options="permissive"))

    def keep(self, rows_N: np.ndarray, columns: Sequence[str], buffer: int) -> None:
        """Only these rows, ascending, and these columns of them will be read; ``buffer`` is that of
        the order."""
        self.kept_N, self.columns = rows_N, list(columns)
        groups = np.count_nonzero(np.diff(np.searchsorted(rows_N, self.first_G)))
        capacity = int(np.ceil(SLACK * buffer * groups / max(1, len(rows_N)))) + 2
        name = digest(*self.marks, rows_N.tobytes(), *self.columns)
        self.unpacked = Unpacked(self.folder / f"unpacked-{name}", capacity)

    def cell(self, row: int, column: str) -> Any:
        """What a row holds in a column."""
        table, index = self.at(row)
        return table.column(column)[index].as_py()

    def record(self, row: int) -> dict[str, Any]:
        """What a row holds, by column."""
        table, index = self.at(row)
        return {name: table.column(name)[index].as_py() for name in self.columns}

    def at(self, row: int) -> tuple[pyarrow.Table, int]:
        """The unpacked group of a row, and where in it the row is."""
        group = self.group(row)
        name = f"{self.shard_G[group]}-{self.number_G[group]}"
        table = self.unpacked.table(name, partial(self.unpack, group))
        return table, self.index(row) - self.index(int(self.first_G[group]))

    def index(self, row: int) -> int:
        """How many kept rows come before a row."""
        return row if self.kept_N is None else int(np.searchsorted(self.kept_N, row))

    def unpack(self, group: int, path: Path) -> None:
        """Write the kept rows of a group to a file that can be mapped."""
        first, writer = int(self.first_G[group]), None
        for batch in self.batches(group, self.columns):
            writer = writer or pyarrow.ipc.new_file(str(path), batch.schema)
            writer.write(self.kept_of(batch, first))
            first += batch.num_rows
        assert writer is not None, "a row of the group is read"
        writer.close()

    def batches(self, group: int, columns: Sequence[str]) -> Iterator[pyarrow.RecordBatch]:
        """The rows of a group in pieces: it may be larger than memory. Raises ValueError where they
        are damaged."""
        path, number = self.files[self.shard_G[group]], int(self.number_G[group])
        try:
            yield from parquet.ParquetFile(path).iter_batches(
                AT_ONCE, row_groups=[number], columns=list(columns)
            )
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(
                f"row group {number} of {path.name} is damaged ({short(error)})"
            ) from error

    def each(self, rows_N: np.ndarray, column: str) -> Iterator[tuple[int, Any]]:
        """These rows, ascending, and what each holds in a column, of those that can be read."""
        for shard, path in enumerate(self.files):
            groups = np.flatnonzero(self.shard_G == shard)
            # Many groups at once: they may have a hundred rows, and each read takes its time.
            pieces = (self.first_G[groups] - self.first_G[groups[0]]) // RUN if len(groups) else []
            file = parquet.ParquetFile(path)
            for piece in np.unique(pieces):
                yield from self.each_of(file, groups[pieces == piece], rows_N, column)

    def each_of(
        self, file: parquet.ParquetFile, groups: np.ndarray, rows_N: np.ndarray, column: str
    ) -> Iterator[tuple[int, Any]]:
        """The same of some groups of a file that follow each other."""
        first, end = self.first_G[groups[0]], self.first_G[groups[-1] + 1]
        low, high = np.searchsorted(rows_N, (first, end))
        if low == high:
            return
        try:
            read = file.read_row_groups(self.number_G[groups].tolist(), columns=[column])
        except (pyarrow.ArrowException, OSError):  # a damaged group is left out, and no other
            for group in groups if len(groups) > 1 else []:
                yield from self.each_of(file, np.array([group]), rows_N, column)
            return
        rows = rows_N[low:high].tolist()
        values = texts(read.column(0).take(pyarrow.array(rows_N[low:high] - first)))
        yield from ((row, value) for row, value in zip(rows, values, strict=True)
                    if value is not NO_TEXT)  # fmt: skip

    def kept_of(self, batch: pyarrow.RecordBatch, first: int) -> pyarrow.RecordBatch:
        """The kept ones of the rows that begin with row ``first``."""
        if self.kept_N is None:
            return batch
        low, high = np.searchsorted(self.kept_N, (first, first + batch.num_rows))
        return batch.take(pyarrow.array(self.kept_N[low:high] - first))


def texts(values: pyarrow.ChunkedArray) -> list[Any]:
    """The values, with ``NO_TEXT`` for those whose bytes are no text."""
    try:
        found: list[Any] = values.to_pylist()
    except ValueError:
        found = [NO_TEXT] * len(values)
        for index, value in enumerate(values):
            with suppress(ValueError):
                found[index] = value.as_py()
    return found


def footer_of(file: Path) -> Any:
    """The description of a parquet file. Raises UserError where it has none."""
    try:
        return parquet.read_metadata(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise UserError(f"shard {file}: is no whole parquet file ({short(error)})") from error


def check_columns(first: Path, schema: pyarrow.Schema, file: Path, found: pyarrow.Schema) -> None:
    """Raises UserError where a file has other columns than the first one."""
    if found.equals(schema):
        return
    other = [name for name in found.names if name not in schema.names]
    other += [name for name in schema.names if name not in found.names]
    other += [name for name in schema.names if name in found.names
              and found.field(name).type != schema.field(name).type]  # fmt: skip
    if other:
        raise UserError(
            f"shard {file}: has not the columns of {first.name} (they differ in {listed(other)})"
        )
