"""ADD AN IMAGE FORMAT HERE: one row of the table names the columns of the two images, the prompt
and the label.

A data set has the first format of the table whose columns it has. ``first_wins`` gives for every
row P(first image ≻ second image): 1, 0, 1/2 for a tie, NaN where the label cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from datasets import Dataset

from diffdpo.data.columns import check_given, closest, listed
from diffdpo.data.source import check_columns
from diffdpo.errors import UserError
from diffdpo.extensions import named_row

ROLES = ("chosen", "rejected", "prompt", "label")  # each has a flag that names its column
NO_FLAGS: Mapping[str, str | None] = MappingProxyType({})


def always(dataset: Dataset) -> np.ndarray:
    """1 for every row: the first image is the chosen one."""
    return np.ones(len(dataset))


def pickapic_label(dataset: Dataset) -> np.ndarray:
    """label_0 of Pick-a-Pic: 1, 0 or 0.5. Where there is a label_1, the two must add up to 1."""
    first = numbers(dataset, "label_0")
    if "label_1" in dataset.column_names:
        # Labels that do not add up to 1 are no vote; label_0 alone would pass for one.
        first = np.where(np.isclose(first + numbers(dataset, "label_1"), 1), first, np.nan)
    return np.where((first >= 0) & (first <= 1), first, np.nan)


def numbers(dataset: Dataset, column: str) -> np.ndarray:
    """A column as floats, NaN where a value is no number."""
    return np.array([as_number(value) for value in dataset[column]], dtype=np.float64)


def as_number(value: object) -> float:
    """A label as a number, NaN where it is none; 1, "1" and True are the same."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return float("nan")


@dataclass(frozen=True)
class ImageFormat:
    """Columns of the first image, the second image and the prompt, and how the label reads."""

    first: str
    second: str
    prompt: str
    first_wins: Callable[[Dataset], np.ndarray] = always
    labels: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # further columns that are read where they are there

    @property
    def names(self) -> dict[str, str]:
        """The column of each role that a flag ``--{role}_column`` can name."""
        return dict(zip(ROLES, self.columns, strict=False))

    @property
    def sides(self) -> tuple[str, str]:
        """The columns of the two images."""
        return self.first, self.second

    @property
    def columns(self) -> list[str]:
        """The columns that a data set must have to be read in this format."""
        return [self.first, self.second, self.prompt, *self.labels]


IMAGE_FORMATS = {
    "pick-a-pic": ImageFormat(
        "jpg_0", "jpg_1", "caption", pickapic_label, ("label_0",), ("label_1",)
    ),
    "chosen-rejected": ImageFormat("chosen", "rejected", "prompt"),
    "chosen-rejected with captions": ImageFormat("chosen", "rejected", "caption"),
    "video pairs": ImageFormat(
        "video_0", "video_1", "caption", pickapic_label, ("label_0",), ("label_1",)
    ),
    "video pairs with prompts": ImageFormat(
        "video_0", "video_1", "prompt", pickapic_label, ("label_0",), ("label_1",)
    ),
    "file names": ImageFormat("chosen_file_name", "rejected_file_name", "prompt"),
}


def as_format(value: object) -> ImageFormat:
    """``value``, which a user's file defines, as a row of the table. Raises TypeError where it is
    no ImageFormat."""
    if not isinstance(value, ImageFormat):
        raise TypeError("is no diffdpo.data.image_formats.ImageFormat")
    return value


def detect(
    columns: list[str], given: Mapping[str, str | None] = NO_FLAGS, requested: str | None = None
) -> ImageFormat:
    """The ``requested`` row of the table, or the first whose columns are all there. ``given`` has
    the columns that flags name by role, see ``columns.renamed``; they count under the names that
    the format reads.

    Raises UserError naming the columns there are and those each format needs.
    """
    check_given(columns, given)
    if requested:
        row = named_row(requested, IMAGE_FORMATS, "data_format", as_format)
        if roles := unused(given, row):
            raise UserError(f"--{roles[0]}_column: --data_format {requested} has no {roles[0]}")
        check_columns(requested, row.columns, after(columns, given, row))
        return row
    for row in IMAGE_FORMATS.values():
        if set(row.columns) <= set(after(columns, given, row)) and not unused(given, row):
            return row
    needs = "; ".join(f"{name}: {', '.join(row.columns)}" for name, row in IMAGE_FORMATS.items())
    fitting = {n: row.columns for n, row in IMAGE_FORMATS.items() if not unused(given, row)}
    if not any("video" in column for column in columns):  # a prompt alone makes no videos
        fitting = {n: names for n, names in fitting.items() if "video" not in names[0]}
    near = closest(columns, fitting)
    raise UserError(
        f"no image pairs in columns {listed(columns, 90)}; needed are {needs}; {near}; name yours"
        f" with {', '.join(f'--{role}_column' for role in ROLES)}"
    )


def after(columns: list[str], given: Mapping[str, str | None], row: ImageFormat) -> list[str]:
    """The columns under the names that ``renamed`` would give them for this format."""
    moved = {column: row.names.get(role, role) for role, column in given.items() if column}
    return [moved.get(column, column) for column in columns]


def unused(given: Mapping[str, str | None], row: ImageFormat) -> list[str]:
    """The roles that a flag names and the format does not have."""
    return [role for role, column in given.items() if column and role not in row.names]
