"""ADD AN IMAGE FORMAT HERE: one row of the table names the columns of the two images, the prompt
and the label.

A data set has the first format of the table whose columns it has. ``first_wins`` gives for every
row P(first image ≻ second image): 1, 0, 1/2 for a tie, NaN where the label cannot be read. A row
may hold a ranking in place of a pair; ``expand`` then gives its pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from datasets import Dataset

from diffdpo.data.columns import Table, check_given, closest, listed, renamed
from diffdpo.data.labels import always, choices, left_or_right, pickapic_label, responses, votes
from diffdpo.data.ranked import Expand, best_of, groups, lists, taken_apart
from diffdpo.data.source import check_columns
from diffdpo.errors import UserError
from diffdpo.extensions import named_row

ROLES = ("chosen", "rejected", "prompt", "label")  # each has a flag that names its column
NO_FLAGS: Mapping[str, str | None] = MappingProxyType({})


@dataclass(frozen=True)
class ImageFormat:
    """Columns of the first image, the second image and the prompt, and how the label reads."""

    first: str
    second: str
    prompt: str
    first_wins: Callable[[Dataset], np.ndarray] = always
    labels: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # further columns that are read where they are there
    expand: Expand | None = None  # of rankings: both sides have one column of pictures
    # Of other columns than those of the images: which, and what makes these of them.
    made_of: tuple[str, ...] = ()
    prepare: Callable[[Dataset], Dataset] | None = None

    @property
    def names(self) -> dict[str, str]:
        """The column of each role that a flag ``--{role}_column`` can name."""
        if self.expand or self.made_of:  # no column is that of a side
            return {"prompt": self.prompt}
        return dict(zip(ROLES, self.columns, strict=False))

    @property
    def sides(self) -> tuple[str, str]:
        """The columns of the two images."""
        return self.first, self.second

    @property
    def columns(self) -> list[str]:
        """The columns that a data set must have to be read in this format."""
        sides = self.made_of or self.sides
        return list(dict.fromkeys([*sides, self.prompt, *self.labels]))


def ranking(pictures: str, ranks: str, higher_wins: bool = False) -> ImageFormat:
    """A row with a list of pictures and one of their ranks."""
    expand = lists(pictures, ranks, higher_wins)
    return ImageFormat(pictures, pictures, "prompt", labels=(ranks,), expand=expand)


FOUR = tuple(f"image_{number}_uid" for number in (1, 2, 3, 4))
CHOICES = ("choice_dist",)

GENERAL = {
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
# Each is that of one public data set, or of a few.
SETS = {
    "HPDv2 pairs": ranking("file_path", "human_preference", higher_wins=True),
    "HPDv2 pairs by image_path": ranking("image_path", "human_preference", higher_wins=True),
    "HPDv2 rankings": ranking("image_path", "rank"),
    "HPDv2 left and right": ImageFormat(
        "image_left_id", "image_right_id", "prompt", left_or_right, ("pref",)
    ),
    "HPDv3": ImageFormat("path1", "path2", "prompt"),
    "HPDv3 votes": ImageFormat("path1", "path2", "prompt", choices, CHOICES),
    "ImageRewardDB": ranking("generations", "ranking"),
    "ImageRewardDB pairs": ImageFormat("img_better", "img_worse", "prompt"),
    "ImageRewardDB images": ImageFormat(
        "image",
        "image",
        "prompt",
        labels=("rank", "prompt_id", "image_amount_in_total"),
        expand=groups("image", "prompt_id", "rank"),
    ),
    "ImageRewardDB groups": ranking("image", "rank"),
    "Rapidata votes": ImageFormat(
        "image1",
        "image2",
        "prompt",
        votes("votes_image1", "votes_image2"),
        ("votes_image1", "votes_image2"),
    ),
    "Pick-a-Pic rankings": ImageFormat(
        FOUR[0],
        FOUR[0],
        "prompt",
        labels=("best_image_uid", *FOUR),
        expand=best_of(FOUR, "best_image_uid"),
    ),
    "open-image-preferences": ImageFormat(
        "image_1",
        "image_2",
        "prompt",
        responses,
        ("preference.responses",),
        made_of=("images",),
        prepare=taken_apart("images", "image_1", "image_2"),
    ),
}
IMAGE_FORMATS = GENERAL | SETS


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
    raise UserError(
        f"no image pairs in columns {listed(columns, 90)}; needed are {needs()};"
        f" {near(columns, given)}; name yours with"
        f" {', '.join(f'--{role}_column' for role in ROLES)}"
    )


def needs() -> str:
    """The columns that each format reads, but for those of single data sets."""
    rows = {name: row for name, row in IMAGE_FORMATS.items() if name not in SETS}
    return "; ".join(f"{name}: {', '.join(row.columns)}" for name, row in rows.items())


def near(columns: list[str], given: Mapping[str, str | None]) -> str:
    """The format that comes near the columns; that of a single data set where it lacks few."""
    fitting = {
        name: row.columns
        for name, row in IMAGE_FORMATS.items()
        if not unused(given, row)
        and (name not in SETS or 2 * len(set(row.columns) - set(columns)) < len(row.columns))
    }
    if not any("video" in column for column in columns):  # a prompt alone makes no videos
        fitting = {n: names for n, names in fitting.items() if "video" not in names[0]}
    return closest(columns, fitting)


def after(columns: list[str], given: Mapping[str, str | None], row: ImageFormat) -> list[str]:
    """The columns under the names that ``renamed`` would give them for this format."""
    moved = {column: row.names.get(role, role) for role, column in given.items() if column}
    return [moved.get(column, column) for column in columns]


def unused(given: Mapping[str, str | None], row: ImageFormat) -> list[str]:
    """The roles that a flag names and the format does not have."""
    return [role for role, column in given.items() if column and role not in row.names]


def in_names_of(format: ImageFormat, dataset: Table, given: Mapping[str, str | None]) -> Table:
    """The data with columns under the names that a format reads; ``given`` has the columns that
    flags name by role."""
    if given.get("label") not in (None, "label_0") and "label_1" in dataset.column_names:
        dataset = dataset.remove_columns("label_1")  # the other half of a label that is not read
    return renamed(dataset, given, format.names)


def called_by(format: ImageFormat, given: Mapping[str, str | None]) -> dict[str, str]:
    """The user's own names of columns of a format."""
    return {format.names[role]: column for role, column in given.items() if column}
