"""The pictures of a row, as they are stored."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image
from tqdm.auto import tqdm

from diffdpo.data.cells import Find, frames_in, undecoded, unpack
from diffdpo.data.decode import open_image
from diffdpo.data.modes import BadImage
from diffdpo.data.text import TextFormat
from diffdpo.data.text.messages import BadRow
from diffdpo.engine.digests import digest, file_digest
from diffdpo.errors import UserError

COLUMNS = ("images", "image")


def column_of(columns: list[str], format: TextFormat | None = None) -> str | None:
    """The column that holds the pictures of the rows; None where there is none. A registry's
    ``format`` names it.

    Raises UserError where two could.
    """
    if format:
        return format.pictures
    found = [name for name in COLUMNS if name in columns]
    if len(found) > 1:
        raise UserError("data: columns images and image both hold pictures; drop one of them")
    return found[0] if found else None


def as_stored(dataset: Dataset, column: str) -> Dataset:
    """The data set with its pictures as files, not decoded by the library."""
    # Decoding is ours, with rotation, file names and errors by row. The library's own cast would
    # write a list of pictures anew, though they are stored in the same way.
    stored = copy.deepcopy(dataset)
    stored.info.features[column] = undecoded(dataset.features[column])
    return stored


def cells_of(record: Mapping[str, Any], column: str) -> list[Any]:
    """The cells of a row's pictures: of a list, of a single one, or none."""
    value = dict.get(record, column) if isinstance(record, dict) else record[column]
    if value is None or value == [] or value == "":
        return []
    several = frames_in(value)
    # A cell that is padded with nulls holds nothing.
    cells = [value] if several is None else several
    return [cell for cell in cells if not is_empty(cell)]


def is_empty(cell: Any) -> bool:
    """Whether a cell stands for no picture."""
    return cell is None or (isinstance(cell, dict) and not any(cell.values()))


def content_of(cell: Any, find: Find) -> bytes | Image.Image:
    """What a cell holds: the content of a file, or a picture in memory."""
    stored = unpack(cell, find)
    return stored.read_bytes() if isinstance(stored, Path) else stored


def digest_of_files(dataset: Dataset, column: str, find: Find) -> str:
    """A digest of the contents of all files that the cells of a column name; what stands in the
    cells themselves is no part of it."""
    cells = dataset.select_columns([column])
    found = []
    for record in tqdm(cells, desc="reading pictures", unit="row", leave=False, disable=None):
        for cell in cells_of(record, column):
            try:
                stored = unpack(cell, find)
                found.append(file_digest(stored) if isinstance(stored, Path) else "")
            except (BadImage, OSError) as error:  # the row is told to be bad where it is read
                found.append(ascii(str(error)))
    return digest(*found)


def opened(cells: list[Any], find: Find) -> tuple[list[Image.Image], bytes]:
    """The pictures in some cells, upright and in RGB, and a digest of their contents.

    Raises BadRow where one cannot be read.
    """
    images, contents = [], []
    for number, cell in enumerate(cells, start=1):
        try:
            content = content_of(cell, find)
            images.append(open_image(content))
        except (BadImage, OSError) as error:
            which = f"picture {number} of {len(cells)}" if len(cells) > 1 else "its picture"
            raise BadRow(f"{which}: {error}") from error
        contents.append(content if isinstance(content, bytes) else content.tobytes())
    return images, bytes.fromhex(digest(*contents)) if contents else b""
