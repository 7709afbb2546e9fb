"""Parts of shards that were unpacked into files: once on a machine, for all its processes and
workers, which map them into memory. The oldest make room for new ones."""

from __future__ import annotations

import fcntl
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow

from diffdpo.engine.files import draft_of, tidy
from diffdpo.errors import UserError

LOCKS = 16  # files that those who unpack wait at; parts share them by name


class Unpacked:
    """At most ``capacity`` unpacked parts in ``folder``."""

    def __init__(self, folder: Path, capacity: int) -> None:
        self.folder, self.capacity = folder, capacity
        self.mapped: OrderedDict[str, pyarrow.Table] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # A worker maps its own.
        return {**self.__dict__, "mapped": OrderedDict()}

    def table(self, name: str, unpack: Callable[[Path], None]) -> pyarrow.Table:
        """The part called ``name``, which ``unpack`` writes where it is not there.

        Raises UserError where the disk does not take it.
        """
        if name not in self.mapped:
            self.mapped[name] = self.opened(name, unpack)
            while len(self.mapped) > self.capacity:
                self.mapped.popitem(last=False)
        return self.mapped[name]

    def opened(self, name: str, unpack: Callable[[Path], None]) -> pyarrow.Table:
        """The part from its file."""
        path = self.folder / f"{name}.arrow"
        if (table := in_file(path)) is not None:
            return table
        try:
            with self.lock(name):
                # While this one waited, another may have unpacked it.
                if (table := in_file(path)) is None:
                    table = written(path, unpack)
                    self.make_room()
        except OSError as error:
            raise UserError(
                f"{self.folder}: could not be written ({error.strerror or error}); streaming keeps"
                " what it has unpacked there: name a place with room with --precompute_dir"
            ) from error
        return table

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Let one process at a time unpack this part."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f".{zlib.crc32(name.encode()) % LOCKS}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def make_room(self) -> None:
        """Delete the oldest files beyond the capacity. Who has mapped one keeps it."""
        tidy(self.folder)
        ages = []
        for path in self.folder.glob("*.arrow"):
            try:
                ages.append((path.stat().st_mtime_ns, path))
            except FileNotFoundError:  # another process makes room as well
                continue
        for _, path in sorted(ages)[: -self.capacity]:
            path.unlink(missing_ok=True)


def written(path: Path, unpack: Callable[[Path], None]) -> pyarrow.Table:
    """The table that ``unpack`` writes, from its file."""
    # Not flushed to the disk: after a power cut it is unpacked anew.
    draft = draft_of(path)
    try:
        unpack(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    table = in_file(path)
    assert table is not None, "written a moment ago"
    return table


def in_file(path: Path) -> pyarrow.Table | None:
    """The table in a file, mapped into memory; None where there is none, or not a whole one."""
    try:
        return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()
    except (FileNotFoundError, pyarrow.ArrowInvalid):
        return None
