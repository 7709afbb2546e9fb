"""Rows with pictures: their tokens as for any text, and their pictures read again when a row is
trained on, so that none is kept in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from accelerate import Accelerator
from datasets import Dataset
from PIL.Image import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffdpo.cache.keys import digest
from diffdpo.data.cells import Find
from diffdpo.data.text.messages import BadRow, Text
from diffdpo.engine.sharding import is_sharded
from diffdpo.errors import UserError
from diffdpo.text.model.network import is_adapter
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens.row_reader import RowReader, RowSettings, TextItem
from diffdpo.text.tokens.tokenise import Store, cpus
from diffdpo.text.vision.cells import as_stored, cells_of, opened
from diffdpo.text.vision.places import without_places
from diffdpo.text.vision.reader import PictureReader
from diffdpo.text.vision.sight import Sight

LOOKED_AT = 500  # rows whose pictures' tokens are counted for the start of a run


class Pictured(TextRows):
    """Rows whose ``column`` holds pictures, which ``sight`` reads; ``find`` gives the file of a
    name."""

    sight: Sight
    column: str
    find: Find

    def reader_of(self, format: str) -> RowReader:
        return PictureReader(
            self.tokenizer, self.settings, format, self.sight, self.column, self.find
        )

    def opened(self, row: int, cells: list[Any]) -> tuple[list[Image], bytes]:
        """The pictures of a row, and a digest of them. Raises UserError where they cannot be
        read."""
        try:
            return opened(cells, self.find)
        except BadRow as error:
            raise UserError(f"data: row {row}: {error}") from error

    def prompt(self, record: Mapping[str, Any]) -> Text:
        reader = self.reader_of(self.tally.format)
        return without_places(reader.example(reader.opened(record)).prompt)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all items and of what decides what their pictures become."""
        return digest(super().fingerprint, self.sight.identity)

    @property
    def bare(self) -> int | None:
        """Rows without a picture; None where they are not known."""
        return sum(not look for look in self.table.looks or [None])

    def pictures_line(self) -> dict[str, str]:
        """What is read of pictures, for the lines at the start."""
        raise NotImplementedError

    def shown(self, ids: Sequence[int]) -> str:
        """Token ids as text, the tokens of a picture as one with their number."""
        text, mark = super().shown(ids), self.sight.mark
        for run in sorted({run for run in runs(text, mark) if run > 1}, reverse=True):
            text = text.replace(mark * run, f"{mark}×{run}")
        return text


class PictureRows(Pictured):
    """The items of such rows, all of which were looked at before training."""

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
        store: Store | None = None,
    ) -> None:
        self.sight, self.column, self.find = sight, column, find
        dataset = as_stored(dataset, column)
        self.cells = dataset.select_columns([column])
        tokenizer = sight.with_template(tokenizer)
        super().__init__(dataset, tokenizer, settings, quiet, processes or cpus(), store)

    def read(self, row: int, visit: int) -> TextItem:
        """The item number ``row``, with its pictures.

        Raises UserError where they are not those that were there at the start.
        """
        item = super().read(row, visit)
        if not item.look:
            return item
        images, look = self.opened(item.row, cells_of(self.cells[item.row], self.column))
        if look != item.look:
            raise UserError(f"data: row {item.row}: its pictures were changed during the run")
        return replace(item, pictures=self.sight.see(images).pictures)

    def pictures_line(self) -> dict[str, str]:
        looks = self.table.looks or [None] * len(self.table)
        given = [number for number, row in enumerate(self.row_I) if looks[row]]
        prompts = [list(super(PictureRows, self).read(n, 0).prompt) for n in given[:LOOKED_AT]]
        counts = [sum(map(prompt.count, self.sight.marks)) for prompt in prompts]
        return {
            "pictures": f"in {len(given):,} of {len(self):,} prompts, read by"
            f" {type(self.sight.processor).__name__}; {min(counts, default=0)} to"
            f" {max(counts, default=0)} tokens a prompt"
            + (f" in the first {LOOKED_AT}" if len(given) > LOOKED_AT else "")
        }


def sight_of(rows: TextRows) -> Sight | None:
    """What reads the pictures of rows; None where they have none."""
    return rows.sight if isinstance(rows, Pictured) else None


def check_processes(
    rows: TextRows, network: PreTrainedModel, adapted: bool, accelerator: Accelerator
) -> None:
    """Raises UserError where processes would wait for each other, because some of them run the part
    of the network that reads pictures and others do not."""
    if not isinstance(rows, Pictured) or accelerator.num_processes == 1:
        return
    if is_sharded(accelerator):
        raise UserError("data: pictures are not read with weights in shares (FSDP); leave it out")
    if rows.bare == 0 or adapted or is_adapter(network):
        return
    if rows.bare is None:
        raise UserError(
            "--streaming: whether every row has a picture is not known, and a full fine-tune on"
            " several processes wants one in each; leave the flag out, or add --use_peft"
        )
    raise UserError(
        f"data: {rows.bare} rows have no picture, and a full fine-tune on several processes wants"
        " one in each; leave these rows out, or add --use_peft"
    )


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
