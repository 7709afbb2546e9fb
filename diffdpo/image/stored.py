"""The two image columns of a data set: their cells, bytes and decoded images by row."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from diffdpo.data.places import Place
from diffdpo.data.source import FOLDER
from diffdpo.image.cells import BadImage, Find
from diffdpo.image.decode import Limits, open_image
from diffdpo.image.marks import Mark, content, marks


class StoredImages:
    """Both images of every source row. ``columns`` are the two columns, with the names that error
    lines have for them; ``place`` decides which files the rows may name."""

    def __init__(self, dataset: Dataset, columns: Mapping[str, str], place: Place) -> None:
        for column in columns:
            if isinstance(dataset.features[column], ImageFeature):
                # Undecoded: decoding is ours, with rotation, transparency and errors by row.
                dataset = dataset.cast_column(column, ImageFeature(decode=False))
        self.columns, self.place = columns, place
        self.folders: list[str] = []  # of the files that hold the rows, and a number for each row
        if FOLDER in dataset.column_names:
            self.folders = dataset.features[FOLDER].names
            self.folder_of = dataset.select_columns(FOLDER).with_format("numpy")[:][FOLDER]
        self.dataset = dataset.select_columns(list(columns))

    def images(self, row: int, enough: int, limits: Limits) -> list[Image.Image]:
        """The first and the second image of a row, see ``open_image``. Raises BadImage."""
        images = []
        for column, cell in self.cells(row).items():
            try:
                images.append(open_image(cell, enough, limits, self.find(row)))
            except BadImage as error:
                raise BadImage(f"column {self.columns[column]}: {error}") from error
        return images

    def cells(self, row: int) -> dict[str, Any]:
        """What both columns hold in a row."""
        return self.dataset[row]

    def contents(self, row: int) -> list[bytes]:
        """The bytes of both images of a row."""
        return [content(cell, self.find(row)) for cell in self.cells(row).values()]

    def marks(self, rows: np.ndarray) -> list[list[Mark]]:
        """Size and time of the last change of the images in these rows, by column."""
        return [marks(self.dataset, column, rows, self.find) for column in self.columns]

    def find(self, row: int) -> Find:
        """The function that gives the file of a name in this row."""
        if not self.folders:
            return self.place.file
        return partial(self.place.file, folder=self.folders[self.folder_of[row]])
