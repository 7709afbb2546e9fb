"""Text preferences as the engine reads them: every row is rendered, tokenised and cut to length
once; rows that cannot be used are counted and named."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from diffdpo.data.text import detect
from diffdpo.data.text.record import as_bad_row
from diffdpo.draws import epoch_order
from diffdpo.engine.batches import Rows
from diffdpo.errors import UserError, short
from diffdpo.text.row_reader import RowReader, RowResult, RowSettings, TextItem, reads_scores
from diffdpo.text.tally import Tally

BATCH = 256  # rows that the tokenizer gets at once


class TextRows(Rows):
    """The usable rows of a data set as items, all in memory."""

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        settings: RowSettings,
        quiet: bool = True,
    ) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        name, self.format = settings.registered or detect(
            dataset.column_names, first_record(dataset), settings.data_format
        )
        check_scores(dataset.column_names, settings)
        self.tally = Tally(len(dataset), name)
        self.items: list[TextItem] = []
        reader, seen = RowReader(tokenizer, settings, name), set()
        with tqdm(
            total=len(dataset), desc="tokenising", unit="row", disable=quiet, leave=False
        ) as bar:
            for first in range(0, len(dataset), BATCH):
                span = range(first, min(first + BATCH, len(dataset)))
                for result in read_rows(reader, dataset, span):
                    self.items += result.items(settings.paired)
                    self.tally.add(result)
                    seen |= result.seen
                bar.update(len(span))
        self.tally.unread = [name for name in dataset.column_names if name not in seen]
        self.check()

    def check(self) -> None:
        """Raises UserError where too many rows are bad, none is left, most have no prompt, or the
        loss wants pairs and there are none."""
        tally = self.tally
        tally.check(len(self.items))
        if self.settings.data_format is None:
            tally.check_prompts()
        kinds = {item.desirable is None for item in self.items}
        if kinds != {self.settings.paired}:
            raise UserError(
                f"data: rows of format {tally.format!r} are single labelled items; take a loss"
                " like kto"
            )

    def limit(self, count: int | None, seed: int) -> None:
        """Keep ``count`` items, picked by the seed."""
        if count is not None and count < len(self.items):
            # Epoch -1 is none of the training's, so the choice is independent of every order.
            kept = np.sort(epoch_order(seed, -1, len(self.items))[:count])
            self.items = [self.items[index] for index in kept]
            self.__dict__.pop("fingerprint", None)  # cached, and no longer that of these items

    def is_subset_of(self, other: TextRows) -> bool:
        """Whether every item is also one of the other's."""
        contents = {content_bytes(item) for item in other.items}
        return all(content_bytes(item) in contents for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all items: it changes when tokens, labels or the choice of rows change."""
        digest = hashlib.blake2b(digest_size=8)
        for item in self.items:
            digest.update(content_bytes(item))
        return digest.hexdigest()

    def read(self, row: int, visit: int) -> TextItem:
        """The item number ``row``, the same on every visit: text has no augmentation."""
        return self.items[row]

    def source(self, row: int) -> int:
        """The row of the data set that item ``row`` was made from."""
        return self.items[row].row

    def preview(self, count: int) -> list[str]:
        """Lines that show the first items as the model will see them: the prompt, which is only
        read, then the completions, which are learned."""
        lines = []
        for item in self.items[:count]:
            names = (
                ("chosen", "rejected") if item.desirable is None else (f"label {item.desirable}",)
            )
            lines.append(
                f"row {item.row}, masked ({len(item.prompt)} tokens): {self.as_text(item.prompt)}"
            )
            for name, ids in zip(names, item.completions, strict=True):
                lines.append(f"row {item.row}, {name} ({len(ids)} tokens): {self.as_text(ids)}")
        return lines

    def as_text(self, ids: Sequence[int]) -> str:
        """Token ids as text, with special tokens and white space visible."""
        return repr(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def content_bytes(item: TextItem) -> bytes:
    """Tokens and labels of an item as bytes, equal for equal items alone."""
    # Each list has its length before it, or a token could move between prompt and completion.
    tokens = [
        np.asarray([len(ids), *ids], dtype=np.int32).tobytes()
        for ids in (item.prompt, *item.completions)
    ]
    return b"".join(tokens) + repr((item.outcome, item.desirable)).encode()


def first_record(dataset: Dataset) -> dict[str, Any]:
    """The first row that can be read. Raises UserError where there is none."""
    for row in range(len(dataset)):
        try:
            return dict(dataset[row])
        except Exception as error:  # text that is no UTF-8, a picture that cannot be decoded
            reason = error
    raise UserError(f"data: no row can be read ({short(reason)})")


def read_rows(reader: RowReader, dataset: Dataset, span: range) -> list[RowResult]:
    """What becomes of the rows ``span`` of a data set, with those that cannot be opened."""
    read, closed = [], {}
    for row in span:
        try:
            read.append((row, dataset[row]))
        except Exception as error:  # text that is no UTF-8, a picture that cannot be decoded
            closed[row] = RowResult(row, bad=str(as_bad_row(error)))
    results = iter(reader.read_all(read))
    return [closed.get(row) or next(results) for row in span]


def check_scores(columns: list[str], settings: RowSettings) -> None:
    """Raises UserError where a setting reads scores and the data have none."""
    missing = {"score_chosen", "score_rejected"} - set(columns)
    if missing and reads_scores(settings):
        flag = "soft_label_scale" if settings.soft_label_scale is not None else "min_score_margin"
        raise UserError(f"--{flag}: the data has no column {' and '.join(sorted(missing))}")
