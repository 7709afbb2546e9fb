"""The list of what is in a tar file: for every row the places of its files."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow
from datasets.packaged_modules.webdataset.webdataset import base_plus_ext

from diffdpo.engine.digests import digest
from diffdpo.engine.files import atomic_file
from diffdpo.errors import UserError, short

BLOCK = 512  # bytes; a tar file ends with blocks of zeros

Places = dict[str, tuple[int, int]]  # offset and size of the files of a row, by what names them


def shard_index(file: Path, folder: Path) -> pyarrow.Table:
    """The list of a tar file, mapped into memory: a row for each key, and for every kind of file
    the columns NAME:offset and NAME:size, in bytes; the size is -1 where a row has none.

    It is kept in ``folder`` under the name, size and time of the file. Raises UserError where the
    tar file is damaged.
    """
    status = file.stat()
    name = digest(str(file.resolve()), repr((status.st_size, status.st_mtime_ns)))
    path = folder / f"tar-{name}.arrow"
    if not path.exists():
        table = listed_rows(file)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as draft, pyarrow.ipc.new_file(str(draft), table.schema) as writer:
            writer.write_table(table)
    return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()


def ends_of(index: pyarrow.Table) -> list[str]:
    """The names of the kinds of files in a list."""
    return [name.removesuffix(":size") for name in index.column_names if name.endswith(":size")]


def listed_rows(file: Path) -> pyarrow.Table:
    """The rows of a tar file.

    Raises UserError where it is damaged, or the files of a row do not lie side by side.
    """
    rows: dict[str, Places] = {}
    last = None
    try:
        for name, offset, size in members(file):
            key, field = base_plus_ext(name)
            if key is None or name.rpartition("/")[2].startswith("."):
                continue  # without an ending, or hidden
            if key in rows and key != last:
                raise UserError(
                    f"shard {file}: the files of {short(key)} do not lie side by side; write them"
                    " in the order of their names"
                )
            if field in rows.setdefault(key, {}):
                raise UserError(f"shard {file}: holds {short(name)} twice")
            rows[key][field] = offset, size
            last = key
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(
            f"shard {file}: is no whole tar file, without compression ({short(error)})"
        ) from error
    return as_table(rows)


def as_table(rows: dict[str, Places]) -> pyarrow.Table:
    """The list as a table."""
    columns: dict[str, pyarrow.Array] = {}
    for field in dict.fromkeys(field for places in rows.values() for field in places):
        both = [places.get(field, (0, -1)) for places in rows.values()]
        columns[f"{field}:offset"] = pyarrow.array([offset for offset, _ in both], pyarrow.int64())
        columns[f"{field}:size"] = pyarrow.array([size for _, size in both], pyarrow.int64())
    return pyarrow.table(columns)


def members(file: Path) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of every plain file in a tar file.

    Raises TarError where it is damaged.
    """
    with tarfile.open(file, "r:") as tar:
        while member := tar.next():
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
            if member.issparse():
                raise tarfile.ReadError(f"{short(member.name)} is stored as a sparse file")
            if member.isreg():
                yield member.name, member.offset_data, member.size
        end = tar.offset
    # The library takes a damaged header, and a file that ends after one, for the end.
    with file.open("rb") as content:
        content.seek(end)
        if content.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError(f"byte {end}: neither a file's header nor the end")
