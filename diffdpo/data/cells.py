"""What the cell of an image column holds: bytes, a file name, base64, ``{bytes, path}``, an array,
or a list with one of these."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import datasets
import numpy as np
from PIL import Image

from diffdpo.data.modes import BadImage
from diffdpo.errors import short

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
BASE64 = re.compile(r"[A-Za-z0-9+/_\r\n-]{40,}={0,2}\s*")  # no image has fewer than 30 bytes
LONGEST_NAME = 4096  # of a path, on Linux
CHANNELS = (1, 3, 4)
# Column types whose values the library would decode; older ones have no videos.
DECODED = (datasets.Image, *([datasets.Video] if hasattr(datasets, "Video") else []))
WANTED = "images are bytes, file names, base64, {bytes, path} or arrays"

Find = Callable[[str], Path]  # the file of a name; raises ValueError where it may not be read


def unpack(cell: Any, find: Find) -> bytes | Path | Image.Image:
    """The bytes, the file or the picture that a cell holds. Raises BadImage where it is none."""
    if isinstance(cell, dict):
        return unpack(of_record(cell), find)
    if isinstance(cell, list | tuple | np.ndarray):
        single = len(cell) == 1 and not isinstance(cell[0], list | np.ndarray | int | float)
        return unpack(cell[0], find) if single else of_array(cell)
    if isinstance(cell, Image.Image | Path):
        return cell
    if isinstance(cell, bytes | bytearray | memoryview):
        if not len(cell):
            raise BadImage("empty")
        return bytes(cell)
    if isinstance(cell, str):
        return of_text(cell, find)
    raise BadImage("empty" if cell is None else f"holds {short(cell, 40)!r}; {WANTED}")


def frames_in(cell: Any) -> list[Any] | None:
    """The cells of the pictures in a cell that is a list of pictures; None where it is none."""
    depth, inner = 0, cell
    while isinstance(inner, list | tuple | np.ndarray) and len(inner):
        depth, inner = depth + 1, inner[0]
    # Numbers in lists three deep are one picture.
    one = isinstance(inner, int | float | np.number) and depth < 4
    return list(cell) if depth and not one else None


def of_record(cell: dict[str, Any]) -> Any:
    """The content of a ``{bytes, path}`` record."""
    for name in ("bytes", "path"):
        if cell.get(name) is not None:
            return cell[name]
    if {"bytes", "path"} & set(cell):
        raise BadImage("empty")
    raise BadImage(f"holds an object with {short(', '.join(map(str, cell)))}; {WANTED}")


def of_text(text: str, find: Find) -> bytes | Path:
    """The bytes that a text encodes, or the file that it names."""
    if text.startswith("data:"):
        head, _, body = text.partition(",")
        return decoded(body) if head.endswith(";base64") else unquote_to_bytes(body)
    if ADDRESS.match(text):
        raise BadImage(f"web addresses are not fetched ({short(text)})")
    if not text.strip():
        raise BadImage("empty")
    if len(text) > LONGEST_NAME and not BASE64.fullmatch(text):
        raise BadImage(f"holds text that is neither a file name nor base64 ({short(text, 40)})")
    try:
        return find(text)
    except ValueError as error:
        if BASE64.fullmatch(text):
            return decoded(text)
        raise BadImage(str(error)) from error


def decoded(text: str) -> bytes:
    """The bytes of base64 text, in either alphabet, with or without padding."""
    letters = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except ValueError as error:
        raise BadImage(f"holds base64 that is broken ({short(error)})") from error


def of_array(cell: Any) -> Image.Image:
    """The picture in an array ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)``: whole numbers from 0 to
    255, or fractions from 0 to 1. Raises BadImage for any that could be meant in two ways."""
    try:
        values = np.asarray(cell)
    except ValueError as error:  # rows of unlike lengths
        raise BadImage(f"holds a list that is no array; {WANTED}") from error
    if values.dtype.kind not in "uif" or values.size == 0:
        kind = "an empty list" if values.size == 0 else f"a list of {len(values)} values"
        raise BadImage(f"holds {kind}; one image is wanted")
    shape = " x ".join(map(str, values.shape))
    if values.ndim not in (2, 3):
        raise BadImage(f"holds an array of {shape}; H x W, H x W x 3 or 3 x H x W are read")
    if values.ndim == 3:
        first, last = values.shape[0] in CHANNELS, values.shape[2] in CHANNELS
        if first == last:
            raise BadImage(f"holds an array of {shape}: which side are the channels?")
        values = np.moveaxis(values, 0, 2) if first else values
        values = values[:, :, 0] if values.shape[2] == 1 else values
    return Image.fromarray(as_bytes(values))


def as_bytes(values: np.ndarray) -> np.ndarray:
    """Values of an array as 8-bit ones. Raises BadImage where their range is unclear."""
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # neither is true of NaN
            raise BadImage(f"holds fractions from {low:g} to {high:g}; 0 to 1 are read")
        return np.round(values * 255).astype(np.uint8)
    if low < 0 or high > 255 or (high == 1 and values.dtype != np.uint8):
        raise BadImage(f"holds whole numbers from {low} to {high}; 0 to 255 are read")
    return values.astype(np.uint8)


def undecoded(feature: Any) -> Any:
    """The type of a column with every image in it left as it is stored."""
    if isinstance(feature, DECODED):
        return type(feature)(decode=False)
    if isinstance(feature, dict):
        return {name: undecoded(inner) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [undecoded(inner) for inner in feature]
    if hasattr(feature, "feature"):  # a list of another type
        return replace(feature, feature=undecoded(feature.feature))
    return feature
