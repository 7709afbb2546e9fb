"""Digests of values, and of files, by which a damaged one is told before it is read."""

from __future__ import annotations

import hashlib
import time
from functools import lru_cache
from pathlib import Path

CHUNK = 1 << 20
SETTLED = 2  # seconds after which a file's times tell whether it was written again


def digest(*values: str | bytes) -> str:
    """A short hexadecimal name that changes when any of the values does."""
    total = hashlib.blake2b(digest_size=8)
    for value in values:
        data = value.encode() if isinstance(value, str) else value
        # With its length, so that ("ab", "c") is not ("a", "bc").
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def text_digest(text: str) -> str:
    """The SHA-256 digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path, end: int | None = None) -> str:
    """The SHA-256 digest of a file, or of its bytes before ``end``, at one gigabyte a second.

    A file that is asked for again and has not changed is not read again.
    """
    stat = path.stat()
    end = stat.st_size if end is None else end
    # Clocks of file systems are coarse: two writes within a tick leave the same times.
    if time.time() - stat.st_mtime < SETTLED:
        return read_digest(path, end)
    return settled_digest(path, end, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=65_536)
def settled_digest(path: Path, end: int, size: int, time_ns: int, number: int) -> str:
    """The digest of a file with these properties."""
    return read_digest(path, end)


def read_digest(path: Path, end: int) -> str:
    """The digest of the first ``end`` bytes of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(min(CHUNK, end)):
            total.update(chunk)
            end -= len(chunk)
    return total.hexdigest()
