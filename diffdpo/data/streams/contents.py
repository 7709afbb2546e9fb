"""Tells files of terabytes apart by a few of their bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from diffdpo.engine.digests import digest

PLACES, LENGTH = 256, 2**16  # so many pieces of all files together are read, of so many bytes each


def file_marks(files: Sequence[Path]) -> list[bytes]:
    """Sizes of the files and contents of evenly spread places, the end of each among them. Not
    names and times, which a copy does not share."""
    share = max(1, PLACES // len(files))
    marks = []
    for file in files[:: max(1, len(files) // PLACES)]:
        size = file.stat().st_size
        places = {max(0, (size - LENGTH) * n // share) for n in range(1, share + 1)}
        descriptor = os.open(file, os.O_RDONLY)
        try:
            contents = [os.pread(descriptor, LENGTH, place) for place in sorted(places)]
        finally:
            os.close(descriptor)
        marks.append(digest(*contents).encode())
    return [repr([file.stat().st_size for file in files]).encode(), *marks]
