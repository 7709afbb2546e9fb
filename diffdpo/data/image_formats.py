"""ADD AN IMAGE FORMAT HERE: one row says which columns hold the two images, the prompt and the
label.

A format is known by its columns. ``first_wins`` gives, per row, P(first image ≻ second image): 1,
0, 1/2 for a tie, NaN where the label cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from diffdpo.errors import UserError


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


def detect(columns: list[str], image: str | None = None, caption: str | None = None) -> ImageFormat:
    """The first row of the table whose columns are all there; ``image`` and ``caption`` rename the
    chosen image's and the prompt's column. Raises UserError naming the columns found and those each
    format needs."""
    for row in IMAGE_FORMATS.values():
        named = ImageFormat(
            image or row.first, row.second, caption or row.prompt, row.first_wins, row.labels
        )
        if set(named.columns) <= set(columns):
            return named
    needs = "; ".join(f"{name}: {', '.join(row.columns)}" for name, row in IMAGE_FORMATS.items())
    raise UserError(f"no image pairs in columns {', '.join(columns)}; needed are {needs}")
