"""The seal of a shard: a digest after the last of its bytes, where Arrow does not read."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from diffdpo.engine.digests import file_digest

MARK = b"diffdpo sha256 "
LENGTH = len(MARK) + 64
ARROW_END = b"\xff\xff\xff\xff\0\0\0\0"  # the end of a stream in Arrow's format


class Shard(Enum):
    """What is stored of a shard."""

    MISSING = "missing"
    DAMAGED = "damaged"
    UNPROVEN = "unproven"  # of a version that wrote no digests
    WHOLE = "whole"


def seal(path: Path) -> None:
    """Append the digest of a file to it."""
    digest = file_digest(path)
    with path.open("ab") as file:
        file.write(MARK + digest.encode())


def state_of(path: Path) -> Shard:
    """Whether the bytes of a shard are those that were written."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - LENGTH))
            tail = file.read()
        if tail.startswith(MARK) and len(tail) == LENGTH:
            whole = tail == MARK + file_digest(path, size - LENGTH).encode()
            return Shard.WHOLE if whole else Shard.DAMAGED
    except FileNotFoundError:
        return Shard.MISSING
    except OSError:
        return Shard.DAMAGED
    return Shard.UNPROVEN if tail.endswith(ARROW_END) else Shard.DAMAGED
