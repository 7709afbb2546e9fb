"""Text preferences as the engine reads them: items of the usable rows, tokenised and cut to length
once; rows that cannot be used are counted and named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from diffdpo.data.holdout import groups, held_out
from diffdpo.data.streams.table import StreamTable
from diffdpo.data.text import detect
from diffdpo.data.text.messages import Text
from diffdpo.data.text.record import Record
from diffdpo.draws import picked_rows
from diffdpo.engine.batches import Rows
from diffdpo.engine.digests import digest
from diffdpo.errors import UserError, short
from diffdpo.text.tokens.contents import contents, whole
from diffdpo.text.tokens.row_reader import RowReader, RowSettings, TextItem, reads_scores
from diffdpo.text.tokens.token_table import token_bytes
from diffdpo.text.tokens.tokenise import Store, tokenised


class TextRows(Rows):
    """The items of the usable rows of a data set, read from a table of tokens as they are asked
    for.

    ``processes`` tokenise; ``store`` is where many rows are kept for later runs.
    """

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        settings: RowSettings,
        quiet: bool = True,
        processes: int | None = None,
        store: Store | None = None,
    ) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        name, self.format = settings.registered or detect(
            dataset.column_names, first_record(dataset), settings.data_format
        )
        check_scores(dataset.column_names, settings)
        reader = self.reader_of(name)
        self.table = tokenised(reader, dataset, processes, store, quiet)
        self.tally = self.table.tally(name, dataset.column_names)
        self.row_I, self.side_I = self.placed()  # of every item
        # The reference's scores of every item, where they are stored.
        self.reference: Dataset | None = None
        self.check()

    def reader_of(self, format: str) -> RowReader:
        """What reads the rows, by the name of their format."""
        return RowReader(self.tokenizer, self.settings, format)

    def placed(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The row of every item, and its number among those of its row."""
        apart = (not self.settings.paired) & (self.table.sides == 2)
        count_R = np.where(apart, 2, self.table.sides > 0)
        row_I = np.repeat(np.arange(len(count_R)), count_R)
        return row_I, np.arange(len(row_I)) - (np.cumsum(count_R) - count_R)[row_I]

    def check(self) -> None:
        """Raises UserError where too many rows are bad, none is left, most have no prompt, or the
        loss wants pairs and there are none."""
        tally = self.tally
        tally.check(len(self))
        if self.settings.data_format is None:
            tally.check_prompts()
        if self.settings.paired and (self.table.label >= 0).any():
            raise UserError(
                f"data: rows of format {tally.format!r} are single labelled items; take a loss"
                " like kto for them, or name pairs"
            )

    def hold_out(self, wanted: float, seed: int) -> TextRows:
        """Take rows out and return them: ``wanted`` items, a share where it is below 1, picked by
        the seed. Items of one prompt, and of one row, stay together.

        Raises UserError where no such part can be had.
        """
        # An empty prompt links nothing; the two items of a pair taken apart share their row.
        names = (
            [
                f"row {item.row}",
                *([f"prompt {digest(token_bytes(item.prompt) + item.look)}"] * bool(item.prompt)),
            ]
            for item in self.viewed()
        )
        out_I = held_out(groups(names), wanted, seed, "eval_fraction")
        other = copy(self)
        other.keep(out_I)
        self.keep(~out_I)
        return other

    def keep(self, items: NDArray[Any]) -> None:
        """Leave out all items but these, numbers or a mask."""
        self.row_I, self.side_I = self.row_I[items], self.side_I[items]
        self.__dict__.pop("fingerprint", None)  # cached, and no longer that of these items

    def limit(self, count: int | None, seed: int) -> None:
        """Keep ``count`` items, picked by the seed."""
        if count is not None and count < len(self):
            self.keep(np.sort(picked_rows(seed, count, len(self))))

    def is_subset_of(self, other: TextRows) -> bool:
        """Whether every item is also one of the other's."""
        # Those of this set alone are kept in memory: it is mostly the smaller one.
        left = {content for part in self.contents() for content in part.to_pylist()}
        for part in other.contents():
            left.difference_update(part.to_pylist())
            if not left:
                return True
        return False

    def __len__(self) -> int:
        return len(self.row_I)

    @property
    def items(self) -> Items:
        """All items, each read when it is asked for."""
        return Items(self)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all items: it changes when tokens, labels or the choice of rows change."""
        total = hashlib.blake2b(digest_size=8)
        for part in self.contents():
            total.update(whole(part))
        return total.hexdigest()

    @property
    def length_I(self) -> NDArray[np.int64]:
        """The tokens of every item: its prompt and its longest completion."""
        prompt_R, *sides = self.table.lengths
        longest_I = np.maximum(*(side_R[self.row_I] for side_R in sides))
        if not self.settings.paired:
            longest_I = np.choose(self.side_I, [side_R[self.row_I] for side_R in sides])
        return prompt_R[self.row_I] + longest_I

    @property
    def most_tokens(self) -> int:
        """The tokens that an item has at most."""
        return int(self.length_I.max())

    @property
    def desirable(self) -> int:
        """The number of desirable items, where a loss judges single completions."""
        label_I = self.table.label[self.row_I]
        return int(np.where(label_I < 0, self.side_I == 0, label_I).sum())

    @property
    def largest_token(self) -> int:
        """The largest token of all items."""
        return int(self.table.largest[self.row_I].max())

    def contents(self) -> Iterator[pa.LargeBinaryArray]:
        """Tokens and labels of every item as bytes, many items at a time."""
        return contents(self.table, self.row_I, self.side_I, self.settings.paired)

    def viewed(self) -> Iterator[TextItem]:
        """All items, with tokens that are not copied; for one look at each."""
        row_A, side_A = self.placed()  # before some were left out, or taken several times
        place_I = np.searchsorted(2 * row_A + side_A, 2 * self.row_I + self.side_I)
        times_A = np.bincount(place_I, minlength=len(row_A)).tolist()
        every = zip(self.table.all_items(self.settings.paired), times_A, strict=True)
        return (item for item, times in every for _ in range(times))

    def read(self, row: int, visit: int) -> TextItem:
        """The item number ``row``, the same on every visit: text has no augmentation."""
        item = self.table.items(int(self.row_I[row]), self.settings.paired)[self.side_I[row]]
        if self.reference is None:
            return item
        return replace(item, reference=tuple(self.reference[row]["scores"]))

    def prompt(self, record: Mapping[str, Any]) -> Text:
        """The prompt of a row of the data set as text or conversation, without pictures."""
        return self.format.read(Record(dict(record))).prompt

    def source(self, row: int) -> int:
        """The row of the data set that item ``row`` was made from."""
        return int(self.row_I[row])

    def of_prompts(self) -> dict[tuple[int, ...], int]:
        """The first row of the data set of every distinct prompt that has tokens, by its tokens."""
        first: dict[tuple[int, ...], int] = {}
        for item in self.items:
            first.setdefault(tuple(item.prompt), item.row)
        return {tokens: row for tokens, row in first.items() if tokens}

    def named(self, row: int) -> str:
        """A row of the data set for a line to the user."""
        return f"row {row}"

    def preview(self, count: int) -> list[str]:
        """Lines that show the first items as the model will see them: the prompt, which is only
        read, then the completions, which are learned."""
        lines = []
        for item in self.items[:count]:
            names = (
                ("chosen", "rejected") if item.desirable is None else (f"label {item.desirable}",)
            )
            row = self.named(item.row)
            lines.append(f"{row}, masked ({len(item.prompt)} tokens): {self.as_text(item.prompt)}")
            for name, ids in zip(names, item.completions, strict=True):
                lines.append(f"{row}, {name} ({len(ids)} tokens): {self.as_text(ids)}")
        return lines

    def as_text(self, ids: Sequence[int]) -> str:
        """Token ids as text, with special tokens and white space visible."""
        return repr(self.shown(ids))

    def shown(self, ids: Sequence[int]) -> str:
        """Token ids as text with special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


class Items(Sequence[TextItem]):
    """The items of some rows as a sequence."""

    def __init__(self, rows: TextRows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> TextItem: ...
    @overload
    def __getitem__(self, index: slice) -> list[TextItem]: ...
    def __getitem__(self, index: int | slice) -> TextItem | list[TextItem]:
        numbers = range(len(self.rows))[index]
        if isinstance(numbers, int):
            return self.rows.read(numbers, 0)
        return [self.rows.read(number, 0) for number in numbers]

    def __iter__(self) -> Iterator[TextItem]:
        return (self.rows.read(number, 0) for number in range(len(self.rows)))


def first_record(dataset: Dataset | StreamTable) -> dict[str, Any]:
    """The first row that can be read. Raises UserError where there is none."""
    for row in range(len(dataset)):
        try:
            return dict(dataset[row])
        except Exception as error:  # text that is no UTF-8, a picture that cannot be decoded
            reason = error
    raise UserError(f"data: no row can be read ({short(reason)})")


def check_scores(columns: list[str], settings: RowSettings) -> None:
    """Raises UserError where a setting reads scores and the data have none."""
    missing = {"score_chosen", "score_rejected"} - set(columns)
    if missing and reads_scores(settings):
        flag = "soft_label_scale" if settings.soft_label_scale is not None else "min_score_margin"
        raise UserError(f"--{flag}: the data has no column {' and '.join(sorted(missing))}")
