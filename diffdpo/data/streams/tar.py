"""Shards of tar in WebDataset's form: files that share a name up to its first dot make a row, and
what follows the dot names the column.

The headers of a shard are listed once, by jumping from one to the next; the list is kept. A row is
then read at its place in the file.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from diffdpo.data.streams.contents import file_marks
from diffdpo.data.streams.tar_index import ends_of, shard_index
from diffdpo.errors import UserError, short

GROUP = 100  # rows that stay together in the order's sequence: they lie side by side
OPEN = 64  # files that a process has open at once
# Endings of files that are not part of a column's name where something stands before them.
PICTURES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tiff", "mp4", "webm"}
TEXTS = {"txt", "text"}
ENDINGS = PICTURES | TEXTS | {"json", "cls"}


class TarShards:
    """The rows of tar files, one after another. Raises UserError where one is damaged."""

    kind = "tar"

    def __init__(self, files: Sequence[Path], folder: Path, quiet: bool) -> None:
        """``folder`` keeps the lists of what is in the files."""
        self.files = list(files)
        with tqdm(
            self.files, desc="listing tar files", unit="shard", disable=quiet, leave=False
        ) as bar:
            self.index = [shard_index(file, folder) for file in bar]
        rows = [len(index) for index in self.index]
        self.first_S = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        starts = [
            np.arange(first, end, GROUP)
            for first, end in zip(self.first_S, self.first_S[1:], strict=False)
        ]
        self.first_G = np.concatenate([*starts, self.first_S[-1:]]).astype(np.int64)
        self.opened: OrderedDict[int, int] = OrderedDict()
        fields = list(dict.fromkeys(name for index in self.index for name in ends_of(index)))
        self.fields: dict[str, list[str]] = {}
        for field in fields:
            self.fields.setdefault(column_of(field), []).append(field)
        self.inside = self.keys_inside()
        self.column_names = [name for name in self.fields if name != "json"] + self.inside

    def __getstate__(self) -> dict[str, Any]:
        # Numbers of open files mean nothing in another process.
        return {**self.__dict__, "opened": OrderedDict()}

    def __len__(self) -> int:
        return int(self.first_S[-1])

    @cached_property
    def marks(self) -> list[bytes]:
        """What tells these shards from others."""
        names = [repr(sorted(self.fields.items())).encode(), self.first_S.tobytes()]
        return [*names, *file_marks(self.files)]

    def keys_inside(self) -> list[str]:
        """The columns in the object that the first row's ``.json`` file is."""
        if "json" not in self.fields or not len(self):
            return []
        try:
            return [name for name in self.whole_json(0) if name not in self.fields]
        except ValueError as error:
            raise UserError(f"shard {self.files[0]}: its first .json file: {error}") from error

    def shard(self, row: int) -> tuple[int, int]:
        """The file that holds a row, and the row's number in it."""
        shard = int(np.searchsorted(self.first_S, row, side="right")) - 1
        return shard, row - int(self.first_S[shard])

    def held(self, columns: Sequence[str]) -> Dataset:
        """These columns of all rows, in memory; what cannot be read is null."""

        def value(row: int, column: str) -> Any:
            try:
                return self.cell(row, column)
            except ValueError:
                return None

        rows = range(len(self))
        return Dataset.from_dict({name: [value(row, name) for row in rows] for name in columns})

    def keep(self, rows_N: np.ndarray, columns: Sequence[str], buffer: int) -> None:
        """What will be read; rows are read one by one, and nothing has to be prepared."""

    def each(self, rows_N: np.ndarray, column: str) -> Iterator[tuple[int, Any]]:
        """These rows, and what each holds in a column, of those that can be read."""
        for row in rows_N.tolist():
            with suppress(ValueError):
                yield row, self.cell(row, column)

    def cell(self, row: int, column: str) -> Any:
        """What a row holds in a column; None where it has no file of it. Raises ValueError where
        its file is not what its ending says."""
        if column in self.fields:
            return self.value(row, self.fields[column])
        return self.whole_json(row).get(column)

    def record(self, row: int) -> dict[str, Any]:
        """What a row holds, by column."""
        names = [name for name in self.fields if name != "json"]
        inside = self.whole_json(row) if "json" in self.fields else {}
        return {**inside, **{name: self.value(row, self.fields[name]) for name in names}}

    def whole_json(self, row: int) -> dict[str, Any]:
        """The object in a row's ``.json`` file."""
        value = self.value(row, self.fields["json"])
        if not isinstance(value, dict | None):
            raise ValueError(f"its .json file holds {type(value).__name__}, not an object")
        return value or {}

    def value(self, row: int, fields: Sequence[str]) -> Any:
        """The content of the one of these files that a row has, as its ending says."""
        shard, number = self.shard(row)
        index = self.index[shard]
        for field in fields:
            if field not in ends_of(index):
                continue
            size = index.column(f"{field}:size")[number].as_py()
            if size >= 0:
                offset = index.column(f"{field}:offset")[number].as_py()
                return decoded(field, self.bytes_at(shard, offset, size))
        return None

    def bytes_at(self, shard: int, offset: int, size: int) -> bytes:
        """A part of a file."""
        if shard not in self.opened:
            self.opened[shard] = os.open(self.files[shard], os.O_RDONLY)
            if len(self.opened) > OPEN:
                os.close(self.opened.popitem(last=False)[1])
        # By place, not by seeking: forked workers share the position in an open file.
        content = os.pread(self.opened[shard], size, offset)
        if len(content) < size:
            raise ValueError(f"{self.files[shard].name} ends within it")
        return content


def column_of(field: str) -> str:
    """The column that a file of a row is: ``chosen`` for ``chosen.jpg``. A single ``txt`` is the
    caption, as in WebDataset's own sets."""
    name, _, ending = field.rpartition(".")
    if name and ending.lower() in ENDINGS:
        return name
    return "caption" if field == "txt" else field


def decoded(field: str, content: bytes) -> Any:
    """The content of a file by its ending: text, the object of JSON, a whole number, or bytes."""
    ending = field.rpartition(".")[2].lower()
    try:
        if ending in TEXTS:
            return content.decode()
        if ending == "json":
            return json.loads(content)
        return int(content) if ending == "cls" else content
    except (ValueError, RecursionError) as error:  # of JSON and UTF-8 as well
        raise ValueError(f"its .{field} file cannot be read ({short(error)})") from error
