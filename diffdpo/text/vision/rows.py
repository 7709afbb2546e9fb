"""Rows with pictures: their tokens as for any text, and their pictures read again when a row is
trained on, so that none is kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from diffdpo.cache.keys import digest
from diffdpo.data.cells import Find
from diffdpo.data.text.messages import BadRow
from diffdpo.errors import UserError
from diffdpo.text.row_reader import RowReader, RowSettings, TextItem
from diffdpo.text.rows import TextRows
from diffdpo.text.tokenise import cpus
from diffdpo.text.vision.cells import as_stored, cells_of, opened
from diffdpo.text.vision.reader import PictureReader
from diffdpo.text.vision.sight import Sight


class PictureRows(TextRows):
    """The items of rows whose ``column`` holds pictures; ``find`` gives the file of a name."""

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        settings: RowSettings,
        sight: Sight,
        column: str,
        find: Find,
        quiet: bool = True,
        processes: int | None = None,
    ) -> None:
        self.sight, self.column, self.find = sight, column, find
        dataset = as_stored(dataset, column)
        self.cells = dataset.select_columns([column])
        # Never stored for later runs: the pictures may be files, which change unseen.
        tokenizer = sight.with_template(tokenizer)
        super().__init__(dataset, tokenizer, settings, quiet, processes or cpus())

    def reader_of(self, format: str) -> RowReader:
        return PictureReader(
            self.tokenizer, self.settings, format, self.sight, self.column, self.find
        )

    def read(self, row: int, visit: int) -> TextItem:
        """The item number ``row``, with its pictures.

        Raises UserError where they are not those that were there at the start.
        """
        item = super().read(row, visit)
        if not item.look:
            return item
        try:
            images, look = opened(cells_of(self.cells[item.row], self.column), self.find)
        except BadRow as error:
            raise UserError(f"data: row {item.row}: {error}") from error
        if look != item.look:
            raise UserError(f"data: row {item.row}: its pictures were changed during the run")
        return replace(item, pictures=self.sight.see(images).pictures)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all items and of what decides what their pictures become."""
        return digest(super().fingerprint, self.sight.identity)

    @property
    def counts(self) -> list[int]:
        """The tokens of pictures in the prompts of the first items that have any."""
        looked = (super(PictureRows, self).read(row, 0) for row in range(min(500, len(self))))
        marks = self.sight.marks
        return [sum(map(list(i.prompt).count, marks)) for i in looked if i.look]

    def as_text(self, ids: Sequence[int]) -> str:
        """Token ids as text, the tokens of a picture as one with their number."""
        text, mark = super().as_text(ids), self.sight.mark
        for run in sorted({run for run in runs(text, mark) if run > 1}, reverse=True):
            text = text.replace(mark * run, f"{mark}×{run}")
        return text


def sight_of(rows: TextRows) -> Sight | None:
    """What reads the pictures of rows; None where they have none."""
    return rows.sight if isinstance(rows, PictureRows) else None


def runs(text: str, mark: str) -> list[int]:
    """How often a mark follows itself, at each place where it does."""
    pieces = text.split(mark)
    found, length = [], 0
    for piece in pieces[1:]:
        length += 1
        if piece:
            found.append(length)
            length = 0
    return [*found, length] if length else found
