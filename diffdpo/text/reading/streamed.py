"""Text preferences that are read from shards while training runs: a row is rendered and tokenised
when its turn comes, in the worker that reads it."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from datasets import Dataset
from datasets.table import InMemoryTable
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from diffdpo.data.streams.table import StreamTable
from diffdpo.data.text import detect
from diffdpo.data.text.record import as_bad_row
from diffdpo.engine.console import skipped
from diffdpo.errors import UserError
from diffdpo.text.reading.rows import TextRows, check_scores, first_record
from diffdpo.text.tokens.contents import contents
from diffdpo.text.tokens.row_reader import RowResult, RowSettings, TextItem
from diffdpo.text.tokens.tally import TOLERATED
from diffdpo.text.tokens.token_table import TokenTable, as_table

SAID = 5  # rows without room for a completion that a process names


class StreamedTexts(TextRows):
    """The items of the rows of shards. Which cannot be used shows when they are read: the next row
    then stands in."""

    looked_at = 500  # rows that are tokenised before training, to find mistakes that most share

    def __init__(
        self, stream: StreamTable, tokenizer: PreTrainedTokenizerBase, settings: RowSettings
    ) -> None:
        self.stream, self.tokenizer, self.settings = stream, tokenizer, settings
        columns = stream.column_names
        name, self.format = detect(columns, first_record(stream), settings.data_format)
        check_scores(columns, settings)
        self.reader, self.reference = self.reader_of(name), None
        looked = [self.result(row) for row in range(min(self.looked_at, len(stream)))]
        # The table has those looked at, and so have the tally and its checks.
        self.table = TokenTable(Dataset(InMemoryTable(as_table(looked, columns))))
        self.tally = self.table.tally(name, columns)
        self.row_I, self.side_I = self.placed()
        self.seen = self.bad = self.long = 0
        self.check()
        self.prepare()

    def placed(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        sides = 2 if not self.settings.paired and (self.table.sides == 2).any() else 1
        rows = np.arange(len(self.stream))
        return np.repeat(rows, sides), np.tile(np.arange(sides), len(rows))

    def prepare(self) -> None:
        """Tell the shards what will be read."""
        self.stream.keep(np.unique(self.row_I), self.stream.column_names)

    def limit(self, count: int | None, seed: int) -> None:
        super().limit(count, seed)
        self.prepare()

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The permutation of an epoch, read almost in sequence."""
        return self.stream.order(self.row_I, seed, epoch)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the shards, of the choice of rows, and of the tokens of those looked at."""
        items = contents(self.table, *super().placed(), self.settings.paired)
        looked = [content for some in items for content in some.to_pylist()]
        return self.stream.digest(self.row_I.tobytes(), self.side_I.tobytes(), *looked)

    @property
    def length_I(self) -> NDArray[np.int64]:
        """The tokens of the rows looked at."""
        prompt_R, *sides = self.table.lengths
        return prompt_R + np.maximum(*sides)

    @property
    def most_tokens(self) -> int:
        """The tokens that an item may have; without a limit, that those looked at have."""
        return self.settings.max_length or super().most_tokens

    @property
    def desirable(self) -> int:
        """About how many items are desirable, by those looked at."""
        label_R = self.table.label[self.table.sides > 0]
        return round(float(np.where(label_R < 0, 0.5, label_R).mean()) * len(self))

    @property
    def largest_token(self) -> int:
        """The largest token that the tokenizer knows."""
        return max(self.tokenizer.get_vocab().values())

    def result(self, row: int) -> RowResult:
        """What becomes of a row of the data set."""
        try:
            record = self.stream.record(row)
        except ValueError as error:  # a damaged part of a shard, or text that is no UTF-8
            return RowResult(row, bad=str(as_bad_row(error)))
        return self.reader.read(row, record)

    def read(self, row: int, visit: int) -> TextItem:
        """The item number ``row``, or that of the next row that can be used."""
        for index in range(row, row + len(self)):
            number = index % len(self)
            result = self.result(int(self.row_I[number]))
            self.seen += 1
            if items := result.items(self.settings.paired):
                return items[self.side_I[number]]
            self.skip(result)
        raise UserError(f"data: none of the {len(self)} items can be used")

    def skip(self, result: RowResult) -> None:
        """Count and name a row that cannot be used. Raises UserError where there are too many."""
        named = self.where(result.row)
        if result.bad is None:
            self.long += 1
            if self.long <= SAID:
                limit = f"its prompt alone fills --max_length ({result.too_long} tokens)"
                skipped(f"{named}: {limit}")
            return
        skipped(f"{named}: {result.bad}")
        self.bad += 1
        # Five in any case: at the beginning 5 % of the rows seen is less than one.
        if self.bad > max(5, TOLERATED * self.seen):
            raise UserError(
                f"data: {self.bad} of {self.seen} rows cannot be used; the last is {named}"
            )

    def where(self, row: int) -> str:
        """A row, with the file that holds it."""
        return self.stream.named(row)

    def stream_line(self) -> str:
        """What lies in the shards."""
        return self.stream.line(len(self))

    def line(self, what: str) -> dict[str, str]:
        """What is streamed, for the start of a run."""
        looked, bad = self.tally.rows, len(self.tally.bad)
        return {
            "rows": f"{len(self):,} {what} ({self.tally.format}), read as they are trained on; of"
            f" the first {looked:,} rows {bad} are unusable",
            "streaming": self.stream_line(),
            "record": "none is kept: an evaluation cannot tell whether its own texts are new",
        }
