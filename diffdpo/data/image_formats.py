"""ADD AN IMAGE FORMAT HERE: one row says which columns hold the two images, the prompt and the
label.

A format is known by its columns. ``first_wins`` gives, per row, P(first image ≻ second image): 1,
0, 1/2 for a tie, NaN where the label cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset

from diffdpo.data.source import check_columns
from diffdpo.errors import UserError
from diffdpo.extensions import named_row


def always(dataset: Dataset) -> np.ndarray:
    """The first image is the chosen one."""
    return np.ones(len(dataset))


def pickapic_label(dataset: Dataset) -> np.ndarray:
    """Pick-a-Pic: label_0 is 1, 0 or 0.5; where label_1 stands beside it, the two must add up to
    1."""
    first = numbers(dataset, "label_0")
    if "label_1" in dataset.column_names:
        first = np.where(np.isclose(first + numbers(dataset, "label_1"), 1), first, np.nan)
    return np.where((first >= 0) & (first <= 1), first, np.nan)


def numbers(dataset: Dataset, column: str) -> np.ndarray:
    """A column as floats, NaN where it holds none."""
    return np.array([as_number(value) for value in dataset[column]], dtype=np.float64)


def as_number(value: object) -> float:
    """A label as a number: 1, "1" and True alike."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


@dataclass(frozen=True)
class ImageFormat:
    """Columns of the first image, the second image and the prompt, and how the label reads."""

    first: str
    second: str
    prompt: str
    first_wins: Callable[[Dataset], np.ndarray] = always
    labels: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """What a data set must have to be read in this format."""
        return [self.first, self.second, self.prompt, *self.labels]


IMAGE_FORMATS = {
    "pick-a-pic": ImageFormat("jpg_0", "jpg_1", "caption", pickapic_label, ("label_0",)),
    "chosen-rejected": ImageFormat("chosen", "rejected", "prompt"),
    "chosen-rejected with captions": ImageFormat("chosen", "rejected", "caption"),
    "file names": ImageFormat("chosen_file_name", "rejected_file_name", "prompt"),
}


def as_format(own: object) -> ImageFormat:
    """A row of the table from a user's own. Raises TypeError where it is none."""
    if not isinstance(own, ImageFormat):
        raise TypeError("is no diffdpo.data.image_formats.ImageFormat")
    return own


def detect(
    columns: list[str],
    image: str | None = None,
    caption: str | None = None,
    requested: str | None = None,
) -> ImageFormat:
    """The ``requested`` row of the table, or the first whose columns are all there; ``image`` and
    ``caption`` rename the chosen image's and the prompt's column.

    Raises UserError naming the columns there are and those each format needs.
    """
    if requested:
        row = renamed(named_row(requested, IMAGE_FORMATS, "data_format", as_format), image, caption)
        check_columns(requested, row.columns, columns)
        return row
    for row in IMAGE_FORMATS.values():
        if set(renamed(row, image, caption).columns) <= set(columns):
            return renamed(row, image, caption)
    needs = "; ".join(f"{name}: {', '.join(row.columns)}" for name, row in IMAGE_FORMATS.items())
    raise UserError(f"no image pairs in columns {', '.join(columns)}; needed are {needs}")


def renamed(row: ImageFormat, image: str | None, caption: str | None) -> ImageFormat:
    """The format with the chosen image and the prompt in other columns, where these are named."""
    return replace(row, first=image or row.first, prompt=caption or row.prompt)
