"""Rows as shards of parquet or tar, and what they are to be read as."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from tests.factory import encoded, picture


def parquet_shards(folder: Path, rows: list[dict], files: int = 2, group: int = 4) -> Path:
    """Parquet files of as many rows each, in row groups of ``group``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts(rows, files)):
        table = pyarrow.Table.from_pylist(part)
        name = f"train-{number:05d}-of-{files:05d}.parquet"
        parquet.write_table(table, folder / name, row_group_size=group)
    return folder


def tar_shards(folder: Path, rows: list[dict], files: int = 2) -> Path:
    """Tar files of rows whose columns are the names of files: ``chosen.jpg`` or ``json``."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts(rows, files)):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for index, row in enumerate(part):
                for field, value in row.items():
                    add(tar, f"{number:02d}{index:04d}.{field}", value)
    return folder


def add(tar: tarfile.TarFile, name: str, value: object) -> None:
    """A file in a tar file: bytes as they are, text in UTF-8, anything else as JSON."""
    content = value if isinstance(value, bytes) else None
    if content is None:
        content = (value if isinstance(value, str) else json.dumps(value)).encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def parts(rows: list[dict], files: int) -> list[list[dict]]:
    """The rows in as many parts."""
    size = -(-len(rows) // files)
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def many_pairs(folder: Path, count: int, per_file: int = 10_000) -> Path:
    """Parquet files of Pick-a-Pic's schema, in row groups of 100, of few different pictures."""
    random = np.random.default_rng(0)
    pictures = pyarrow.array([encoded(picture(n, (8, 8)), "JPEG", quality=30) for n in range(64)])
    folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, count, per_file)):
        rows = min(per_file, count - first)
        label = random.choice([0.0, 1.0, 0.5], rows, p=[0.44, 0.44, 0.12])
        columns = {
            f"jpg_{side}": pictures.take(pyarrow.array(random.integers(0, 64, rows)))
            for side in (0, 1)
        }
        columns |= {"label_0": label, "label_1": 1 - label}
        columns["caption"] = [f"thing number {n}" for n in range(first, first + rows)]
        path = folder / f"train-{number:05d}.parquet"
        parquet.write_table(pyarrow.table(columns), path, row_group_size=100)
    return folder
