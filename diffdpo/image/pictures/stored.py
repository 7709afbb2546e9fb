"""The two image columns of a data set: their cells, bytes and decoded images by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset

from diffdpo.data.cells import BadImage, Find, undecoded
from diffdpo.data.places import Place
from diffdpo.data.ranked import Ranked
from diffdpo.data.source import FOLDER
from diffdpo.errors import short
from diffdpo.image.pictures.marks import Mark, content, marks

T = TypeVar("T")
Read = Callable[[Any, Find], T]


class Side:
    """The pictures of one side: a column of cells, and which of them each row has."""

    def __init__(self, cells: Dataset, column: str, number: np.ndarray | None) -> None:
        """``number`` has for every row that of its cell; None: they are the same."""
        # Decoding is ours, with rotation, transparency, file names and errors by row.
        if (feature := undecoded(cells.features[column])) != cells.features[column]:
            cells = cells.cast_column(column, feature)
        self.cells, self.column, self.number = cells.select_columns(column), column, number

    def at(self, row: int) -> int:
        """The number of a row's cell."""
        return row if self.number is None else int(self.number[row])

    def cell(self, row: int) -> Any:
        """What a row holds. Raises BadImage where that cannot be told."""
        return self.at_number(self.at(row))

    def at_number(self, number: int) -> Any:
        """What the cell of a number holds. Raises BadImage where that cannot be told."""
        try:
            return self.cells[number][self.column]
        except Exception as error:  # a column of another kind, of which a value is broken
            raise BadImage(short(error) or type(error).__name__) from error

    def marks(self, rows: np.ndarray, find: Callable[[int], Find]) -> list[Mark]:
        """Size and time of the last change of the pictures in these rows; ``find`` is by cell."""
        if self.number is None:
            return marks(self.cells, self.column, rows, find)
        distinct, place = np.unique(self.number[rows], return_inverse=True)
        found = marks(self.cells, self.column, distinct, find)
        return [found[at] for at in place.tolist()]


class StoredImages:
    """Both images of every source row, or of every pair of rankings. ``columns`` are those of the
    images, with the names that error lines have for them; ``place`` decides which files the rows
    may name."""

    def __init__(
        self,
        dataset: Dataset,
        columns: Mapping[str, str],
        place: Place,
        ranked: Ranked | None = None,
    ) -> None:
        self.columns, self.place = columns, place
        self.folders: list[str] = []  # of the files that hold the rows, and a number for each cell
        if FOLDER in dataset.column_names:
            self.folders = dataset.features[FOLDER].names
            self.folder_of = dataset.select_columns(FOLDER).with_format("numpy")[:][FOLDER]
        if ranked is None:
            self.sides = [Side(dataset, column, None) for column in columns]
            return
        (column,) = columns
        self.sides = [Side(ranked.pictures, column, number) for number in ranked.sides_P2.T]
        if self.folders:
            self.folder_of = self.folder_of[ranked.row_N]

    def images(self, row: int, read: Read[T]) -> list[T]:
        """What ``read`` makes of the first and the second cell of a row. Raises BadImage."""
        images = []
        for side in self.sides:
            cell, find = side.cell(row), self.find(side.at(row))
            try:
                images.append(read(cell, find))
            except BadImage as error:
                raise BadImage(f"column {self.columns[side.column]}: {error}") from error
        return images

    def image(self, side: int, number: int, read: Read[T]) -> T:
        """What ``read`` makes of one cell, by its number on a side. Raises BadImage."""
        of = self.sides[side]
        try:
            return read(of.at_number(number), self.find(number))
        except BadImage as error:
            raise BadImage(f"column {self.columns[of.column]}: {error}") from error

    def contents(self, row: int) -> list[bytes]:
        """The bytes of both images of a row; none where the row cannot be read."""
        try:
            return [content(side.cell(row), self.find(side.at(row))) for side in self.sides]
        except BadImage:
            return []

    def marks(self, rows: np.ndarray) -> list[list[Mark]]:
        """Size and time of the last change of the images in these rows, by side."""
        return [side.marks(rows, self.find) for side in self.sides]

    def find(self, number: int) -> Find:
        """The function that gives the file of a name in this cell."""
        if not self.folders:
            return self.place.file
        return partial(self.place.file, folder=self.folders[self.folder_of[number]])
