"""Image columns of which no cell is a picture."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.factory import encoded, picture
from tests.hostile.bad_images import GOOD, TRAIN, reading, table
from tests.hostile.case import Bad

CELLS: dict[str, tuple[Any, str]] = {
    "a number": (7, "holds '7'; images are bytes"),
    "a fraction": (0.5, "holds '0.5'"),
    "true or false": (True, "holds 'True'"),
    "nothing": (None, "empty"),
    "empty bytes": (b"", "empty"),
    "a record without bytes and path": ({"bytes": None, "path": None}, "empty"),
    "a record of another kind": ({"url": "x"}, "holds an object with url"),
    "a web address": ("https://example.org/a.png", "web addresses are not fetched"),
    "long text": ("lorem ipsum " * 2000, "holds text that is neither a file name nor base64"),
    "base64 of no image": (base64.b64encode(bytes(5000)).decode(), "in no image format"),
    "a pointer of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "is a Git LFS pointer in place of the file; git lfs pull",
    ),
    "a page of the web": (b"<!doctype html><title>404</title>", "text .HTML, SVG or JSON., not an"),
    "a picture of a phone": (
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "HEIC, which is not read; store",
    ),
    "two images": ([GOOD, GOOD], "holds a list of 2 values; one image is wanted"),
    "a row of numbers": ([1, 2, 3], "holds an array of 3; H x W"),
    "numbers beyond a byte": ([[300, 2], [3, 4]], "holds whole numbers from 2 to 300"),
    "fractions below zero": ([[-0.5, 0.5]], "holds fractions from -0.5 to 0.5"),
    "a program": (encoded(picture(0), "EPS"), "EPS is a program"),
    "an image cut short": (encoded(picture(0), "BMP")[:300], "image file is truncated"),
    "a strip": (encoded(picture(0, (600, 2))), r"600 x 2 pixels: .*\(--max_image_ratio\)"),
}


def cells(cell: Any) -> Callable[[Path], Path]:
    """Four rows with this in the place of the second image."""
    return table(*[{"chosen": GOOD, "rejected": cell, "prompt": "p"}] * 4)


def unreadable(reason: str) -> str:
    """The line for four rows of which none can be read."""
    return rf"data: 4 of 4 pairs are unreadable \(row 0: column rejected: {reason}"


CASES = [
    *(
        Bad(
            f"an image column with {name}",
            TRAIN,
            reading(cells(cell)),
            unreadable(line),
        )
        for name, (cell, line) in CELLS.items()
    ),
]
