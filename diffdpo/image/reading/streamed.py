"""Image pairs that are read from shards while training runs. Of all rows only the labels are held:
pictures and captions are read with the row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset

from diffdpo.data.cells import BadImage, Find
from diffdpo.data.image_formats import (
    NO_FLAGS,
    ImageFormat,
    always,
    called_by,
    detect,
    in_names_of,
)
from diffdpo.data.places import Place
from diffdpo.data.streams.table import StreamTable
from diffdpo.errors import UserError, short
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.pictures.side_columns import (
    SEEDS,
    SideColumns,
    SideSettings,
    mask_columns,
    score_columns,
)
from diffdpo.image.pictures.stored import Side, StoredImages
from diffdpo.image.reading.captions import prompt_of
from diffdpo.image.reading.pairs import ImagePairs
from diffdpo.image.reading.tally import PairTally

NO_COLUMNS = Dataset.from_dict({})


class StreamedPairs(ImagePairs):
    """The pairs of shards by row; the same items as ``ImagePairs`` gives, in a streamed order."""

    def __init__(
        self,
        table: StreamTable,
        format: ImageFormat,
        place: Place,
        framing: FrameSettings,
        called: Mapping[str, str],
    ) -> None:
        """``called`` has the user's own names of columns of the format."""
        self.table, self.format, self.framing, self.called = table, format, framing, called
        self.ranked = None
        self.stored = StreamedImages(
            table, {name: self.shown(name) for name in format.sides}, place
        )
        self.first_wins = labels(table, format)
        self.tally, self.seen = PairTally(rows=len(table), checked=False), 0
        self.beside = beside = StreamedSides(table, framing.beside, place)
        self.wanted = list(dict.fromkeys([*format.sides, format.prompt, *beside.pictures]))
        self.begin(table.column_names)
        self.prepare()

    def prepare(self) -> None:
        """Tell the shards what will be read."""
        self.table.keep(self.rows, self.wanted)

    def limit(self, count: int | None, seed: int) -> None:
        super().limit(count, seed)
        self.prepare()

    def check(self, quiet: bool) -> None:
        """Nothing: pictures are checked as they are read."""

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The permutation of an epoch, read almost in sequence."""
        return self.table.order(self.rows, seed, epoch)

    def read_fingerprint(self) -> str:
        """A digest of labels, the choice of rows, and of the shards: sizes, and contents from
        places evenly spread."""
        labels = self.first_wins[self.rows].tobytes()
        return self.table.digest(self.rows.tobytes(), labels)

    def named(self, pair: int) -> str:
        return self.table.named(pair)

    def prompt(self, row: int) -> str:
        """The prompt of a source row. Raises BadImage where it cannot be read."""
        column = self.format.prompt
        try:
            caption = self.table.cell(row, column)
            return prompt_of(caption, self.shown(column), self.framing.seed, row)
        except ValueError as error:
            raise BadImage(f"column {self.shown(column)}: {short(error)}") from error

    def each_prompt(self) -> Iterator[str]:
        """The prompt of every usable row that can be read, one by one: no picture is."""
        column = self.shown(self.format.prompt)
        for row, caption in self.table.each(self.rows, self.format.prompt):
            yield prompt_of(caption, column, self.framing.seed, row)


class StreamedSide(Side):
    """The pictures of one side, by source row."""

    def __init__(self, table: StreamTable, column: str) -> None:
        self.table, self.column, self.number = table, column, None

    def at_number(self, number: int) -> Any:
        try:
            return self.table.cell(number, self.column)
        except ValueError as error:
            raise BadImage(short(error)) from error


class StreamedImages(StoredImages):
    """Both pictures of every row of shards."""

    def __init__(self, table: StreamTable, columns: Mapping[str, str], place: Place) -> None:
        self.table, self.columns, self.place = table, columns, place
        self.sides = [StreamedSide(table, column) for column in columns]

    def find(self, number: int) -> Find:
        return partial(self.place.file, folder=self.table.folder(number))


class StreamedSides(SideColumns):
    """The columns beside pictures: numbers of all rows are held, masks read with the row."""

    def __init__(self, table: StreamTable, settings: SideSettings, place: Place) -> None:
        there = table.column_names
        names = list(score_columns(settings.scores, there)) if settings.scores else []
        if settings.noise:
            names += [name for name in SEEDS if name in there]
        super().__init__(
            table.held(names) if names else NO_COLUMNS, replace(settings, mask=None), place
        )
        self.pictures: list[str] = []
        if settings.mask:
            self.pictures = mask_columns(settings.mask, there)
            self.columns += self.pictures
            shown = {name: short(name, 40) for name in self.pictures}
            self.masks = StreamedImages(table, shown, place)


def labels(table: StreamTable, format: ImageFormat) -> np.ndarray:
    """P(first ≻ second) of every row."""
    if format.first_wins is always:
        return np.ones(len(table))
    there = [*format.labels, *(name for name in format.optional if name in table.column_names)]
    return format.first_wins(table.held(there))


def streamed_pairs(
    table: StreamTable,
    framing: FrameSettings,
    name: str,
    given: Mapping[str, str | None] = NO_FLAGS,
    requested: str | None = None,
) -> StreamedPairs:
    """The pairs of the shards of the data set ``name``; ``given`` and ``requested`` as
    ``image_pairs`` has them.

    Raises UserError for a format that needs all rows at once.
    """
    format = detect(table.column_names, given, requested)
    if format.expand or format.prepare:
        raise UserError(
            "--streaming reads pairs, a row each, and these rows hold "
            f"{'rankings' if format.expand else 'lists of pictures'}; leave the flag out"
        )
    return StreamedPairs(
        in_names_of(format, table, given), format, Place.of(name), framing, called_by(format, given)
    )
