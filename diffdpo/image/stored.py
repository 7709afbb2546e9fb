"""The two image columns of a data set: their cells, bytes and decoded images by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import datasets
import numpy as np
from datasets import Dataset

from diffdpo.data.places import Place
from diffdpo.data.source import FOLDER
from diffdpo.errors import short
from diffdpo.image.cells import BadImage, Find
from diffdpo.image.marks import Mark, content, marks

# Column types whose values the library would decode; older ones have no videos.
DECODED = (datasets.Image, *([datasets.Video] if hasattr(datasets, "Video") else []))
T = TypeVar("T")
Read = Callable[[Any, Find], T]


class StoredImages:
    """Both images of every source row. ``columns`` are the two columns, with the names that error
    lines have for them; ``place`` decides which files the rows may name."""

    def __init__(self, dataset: Dataset, columns: Mapping[str, str], place: Place) -> None:
        for column in columns:
            # Decoding is ours, with rotation, transparency, file names and errors by row.
            if (feature := undecoded(dataset.features[column])) != dataset.features[column]:
                dataset = dataset.cast_column(column, feature)
        self.columns, self.place = columns, place
        self.folders: list[str] = []  # of the files that hold the rows, and a number for each row
        if FOLDER in dataset.column_names:
            self.folders = dataset.features[FOLDER].names
            self.folder_of = dataset.select_columns(FOLDER).with_format("numpy")[:][FOLDER]
        self.dataset = dataset.select_columns(list(columns))

    def images(self, row: int, read: Read[T]) -> list[T]:
        """What ``read`` makes of the first and the second cell of a row. Raises BadImage."""
        images = []
        for column, cell in self.cells(row).items():
            try:
                images.append(read(cell, self.find(row)))
            except BadImage as error:
                raise BadImage(f"column {self.columns[column]}: {error}") from error
        return images

    def cells(self, row: int) -> dict[str, Any]:
        """What both columns hold in a row. Raises BadImage where that cannot be told."""
        try:
            return self.dataset[row]
        except Exception as error:  # a column of another kind, of which a value is broken
            raise BadImage(short(error) or type(error).__name__) from error

    def contents(self, row: int) -> list[bytes]:
        """The bytes of both images of a row; none where the row cannot be read."""
        try:
            return [content(cell, self.find(row)) for cell in self.cells(row).values()]
        except BadImage:
            return []

    def marks(self, rows: np.ndarray) -> list[list[Mark]]:
        """Size and time of the last change of the images in these rows, by column."""
        return [marks(self.dataset, column, rows, self.find) for column in self.columns]

    def find(self, row: int) -> Find:
        """The function that gives the file of a name in this row."""
        if not self.folders:
            return self.place.file
        return partial(self.place.file, folder=self.folders[self.folder_of[row]])


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
