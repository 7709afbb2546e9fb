"""Tells data sets of pictures apart without reading them whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from datasets import Dataset
from pyarrow import compute as arrow

from diffdpo.batched import batched
from diffdpo.data.cells import BadImage, Find, frames_in, unpack

Mark = tuple[int, int]  # size in bytes, and the time of the last change of a file
NO_FILE = (-1, -1)
AT_ONCE = 1000


def evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the rows, evenly spread."""
    return rows[:: max(1, -(-len(rows) // count))]


def content(cell: Any, find: Find) -> bytes:
    """The bytes of a stored image; those of its text where it cannot be read."""
    if frames := frames_in(cell):
        return b"".join(content(frame, find) for frame in frames)
    try:
        found = unpack(cell, find)
        if isinstance(found, Path):
            return found.read_bytes()
        return found if isinstance(found, bytes) else found.tobytes()
    except (BadImage, OSError):
        return repr(cell).encode(errors="replace")


def marks(
    dataset: Dataset, column: str, rows: np.ndarray, find: Callable[[int], Find]
) -> list[Mark]:
    """The mark of the image in each of the ``rows``; the time is 0 for one inside a table.

    ``find`` gives for a row the function from a name to its file.
    """
    # Arrow knows sizes from its offsets: no image is read, not even from a table of terabytes.
    table = dataset.select_columns(column).with_format("arrow")
    found: list[Mark] = []
    for first, last in spans(rows):
        sizes, names = sizes_and_names(table[first : last + 1].column(0))
        for row in rows[(rows >= first) & (rows <= last)].tolist():
            size, name = sizes[row - first], names[row - first]
            found.append((size, 0) if name is None else file_mark(name, size, find(row)))
    return found


def spans(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last row of stretches that are read at once: neighbours, and single far ones."""
    for group in np.split(rows, np.flatnonzero(np.diff(rows) > 8) + 1):
        for some in batched(group, AT_ONCE):
            yield int(some[0]), int(some[-1])


def sizes_and_names(values: pyarrow.ChunkedArray) -> tuple[list[int], list[str | None]]:
    """The length of each cell, -1 where it has none, and its text, where it is a file name."""
    names: list[str | None] = [None] * len(values)
    if pyarrow.types.is_struct(values.type):
        fields = [field.name for field in values.type]
        paths = arrow.struct_field(values, "path") if "path" in fields else None
        inside = arrow.struct_field(values, "bytes") if "bytes" in fields else None
        sizes = [-1] * len(values) if inside is None else sizes_and_names(inside)[0]
        given = names if paths is None else paths.to_pylist()
        return sizes, [None if size >= 0 else name for size, name in zip(sizes, given, strict=True)]
    if is_text(values.type):
        names = values.to_pylist()
    elif not is_bytes(values.type):
        return [-1] * len(values), names
    return arrow.fill_null(arrow.binary_length(values), -1).to_pylist(), names


def is_text(kind: pyarrow.DataType) -> bool:
    """Whether a column of this type holds text."""
    return pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)


def is_bytes(kind: pyarrow.DataType) -> bool:
    """Whether a column of this type holds bytes."""
    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def file_mark(name: str, size: int, find: Find) -> Mark:
    """Size and nanoseconds of the last change of a file; the length of a text that names none."""
    try:
        status = find(name).stat()
    except (OSError, ValueError):
        return (size, 0) if size >= 0 else NO_FILE
    return status.st_size, status.st_mtime_ns
