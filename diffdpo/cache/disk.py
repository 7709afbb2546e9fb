"""The disk that tables are on: how much they take, how much is free, and where it ends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffdpo.errors import UserError, short

GIB = 2**30


def place(root: str) -> Path:
    """The folder that holds tables. Raises UserError where its name is no text."""
    if root.encode(errors="ignore").decode() != root:
        raise UserError(f"--precompute_dir {short(ascii(root))}: holds bytes that are not text")
    return Path(root).expanduser()


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turns a disk that takes no more into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--precompute_dir {folder.parent}: cannot be written ({error.strerror or error}); what"
            " is whole is kept"
        ) from error


def free_bytes(folder: Path) -> int:
    """The bytes that are free where a folder is, or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def gib(count: int) -> str:
    """Bytes in GiB, to two digits or more."""
    return f"{count / GIB:.1f}" if count >= 10 * GIB else f"{count / GIB:.2g}"
