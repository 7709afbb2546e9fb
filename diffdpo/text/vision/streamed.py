"""Rows with pictures that are read from shards while training runs."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from diffdpo.data.cells import Find
from diffdpo.data.streams.table import StreamTable
from diffdpo.text.reading.streamed import StreamedTexts
from diffdpo.text.tokens.row_reader import RowSettings, TextItem
from diffdpo.text.vision.cells import cells_of
from diffdpo.text.vision.rows import Pictured
from diffdpo.text.vision.sight import Sight


class StreamedPictures(Pictured, StreamedTexts):
    """The items of such rows. A row's pictures are decoded twice: for the number of their tokens,
    and for the network."""

    looked_at = 64  # the processor takes as long for one picture as the tokenizer for many rows

    def __init__(
        self,
        stream: StreamTable,
        tokenizer: PreTrainedTokenizerBase,
        settings: RowSettings,
        sight: Sight,
        column: str,
        find: Find,
    ) -> None:
        self.sight, self.column, self.find = sight, column, find
        StreamedTexts.__init__(self, stream, sight.with_template(tokenizer), settings)

    def read(self, row: int, visit: int) -> TextItem:
        """The item number ``row``, or that of the next row that can be used, with its pictures."""
        item = super().read(row, visit)
        cells = cells_of(self.stream.record(item.row), self.column)
        if not cells:
            return item
        images, look = self.opened(item.row, cells)
        return replace(item, look=look, pictures=self.sight.see(images).pictures)

    @property
    def bare(self) -> int | None:
        return None

    def pictures_line(self) -> dict[str, str]:
        looks = self.table.looks or [None] * len(self.table)
        return {
            "pictures": f"in {sum(map(bool, looks)):,} of the first {len(looks):,} prompts, read by"
            f" {type(self.sight.processor).__name__}"
        }
