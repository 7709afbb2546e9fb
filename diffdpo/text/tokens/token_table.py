"""What became of every row of a data set, as an Arrow table: tokens as 32-bit integers, and notes
on rows that were cut or left out. Read on demand, from memory or through a memory map."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from numpy.typing import NDArray

from diffdpo.text.tokens.row_reader import RowResult, TextItem, make_items
from diffdpo.text.tokens.tally import Tally

TOKENS = ("prompt", "first", "second")  # second: of a pair
FEATURES = Features(
    {
        **dict.fromkeys(TOKENS, List(Value("int32"))),
        "sides": Value("int8"),  # completions; 0 of a row that cannot be used
        "outcome": Value("float64"),
        "desirable": Value("bool"),
        "largest": Value("int32"),  # token
        "bad": Value("binary"),  # text, which may hold half a character that Arrow does not take
        "close": Value("bool"),
        "too_long": Value("int32"),
        "prompts_cut": Value("int8"),
        "completions_cut": Value("int8"),
        "endless": Value("bool"),
        "unprompted": Value("bool"),
        "repeated": Value("bool"),
        "contrary": Value("bool"),
        "left_out": Value("binary"),
        "look": Value("binary"),  # a digest of the pictures in the prompt
        "seen": List(Value("int16")),  # numbers of columns
    }
)
COUNTED = (
    "close", "prompts_cut", "completions_cut", "endless", "unprompted", "repeated", "contrary"
)  # fmt: skip


def as_table(results: Sequence[RowResult], columns: Sequence[str]) -> pa.Table:
    """The results of consecutive rows of a data set with these columns."""
    encoded = [result.encoded for result in results]
    lists = [() if ids is None else (ids.prompt, *ids.completions) for ids in encoded]
    found: dict[str, list[Any]] = {
        name: [ids[side] if side < len(ids) else None for ids in lists]
        for side, name in enumerate(TOKENS)
    }
    found["sides"] = [max(0, len(ids) - 1) for ids in lists]
    found["largest"] = [max(map(max, filter(None, ids)), default=0) for ids in lists]
    number = {name: index for index, name in enumerate(columns)}
    found["seen"] = [sorted(number[name] for name in r.seen if name in number) for r in results]
    for name in ("bad", "left_out"):
        found[name] = [as_bytes(getattr(result, name)) for result in results]
    rest = [name for name in FEATURES if name not in found]
    found |= {name: [getattr(result, name) for result in results] for name in rest}
    return pa.table({name: found[name] for name in FEATURES}, schema=FEATURES.arrow_schema)


def as_bytes(text: str | None) -> bytes | None:
    """A text in UTF-8, half characters included."""
    return None if text is None else text.encode("utf-8", "surrogatepass")


class TokenTable:
    """The rows of ``as_table`` tables, one for each row of the data set."""

    def __init__(self, stored: Dataset) -> None:
        self.stored = stored

    def __len__(self) -> int:
        return len(self.stored)

    def __getstate__(self) -> dict[str, Any]:
        # A memory map is sent to another process by its path; what was read from it would be sent
        # whole.
        return {"stored": self.stored}

    @cached_property
    def parts(self) -> list[Tokens]:
        """The tokens of prompts, of first and of second completions."""
        return [Tokens(self.column(name)) for name in TOKENS]

    @cached_property
    def sides(self) -> NDArray[np.int8]:
        """The number of completions of every row; 0 of one that cannot be used."""
        return self.column("sides").to_numpy()

    @cached_property
    def outcome(self) -> NDArray[np.float64]:
        """P(chosen ≻ rejected) of every row."""
        return self.column("outcome").to_numpy()

    @cached_property
    def label(self) -> NDArray[np.int8]:
        """The label of a single completion, 1 or 0; −1 of pairs and of unusable rows."""
        numbers = pc.cast(self.column("desirable"), pa.int8())
        return pc.fill_null(numbers, pa.scalar(-1, pa.int8())).to_numpy()

    @cached_property
    def largest(self) -> NDArray[np.int32]:
        """The largest token of every row."""
        return self.column("largest").to_numpy()

    @cached_property
    def lengths(self) -> list[NDArray[np.int64]]:
        """The number of tokens of every prompt, first and second completion."""
        return [part.lengths() for part in self.parts]

    def column(self, name: str) -> pa.ChunkedArray:
        """A column as it is stored."""
        return self.stored.data.column(name)

    @cached_property
    def looks(self) -> list[bytes | None] | None:
        """The digest of the pictures of every row; None where no row has any."""
        column = self.column("look")
        return None if column.null_count == len(column) else column.to_pylist()

    def items(self, row: int, paired: bool) -> list[TextItem]:
        """The items of a usable row."""
        tokens = [part.read(row) for part in self.parts]
        return self.made(row, tokens, paired)

    def all_items(self, paired: bool) -> Iterator[TextItem]:
        """The items of all usable rows, with tokens that are not copied; for a look at each."""
        for row, tokens in enumerate(zip(*(part.views() for part in self.parts), strict=True)):
            if self.sides[row]:
                yield from self.made(row, tokens, paired)

    def made(self, row: int, tokens: Sequence[Any], paired: bool) -> list[TextItem]:
        """The items of a row with these tokens."""
        label, outcome = self.label[row], float(self.outcome[row])
        desirable = None if label < 0 else bool(label)
        sides = tokens[1 : 1 + self.sides[row]]
        items = make_items(row, tokens[0], sides, outcome, desirable, paired)
        if self.looks is None or (look := self.looks[row]) is None:
            return items
        return [replace(item, look=look) for item in items]

    def tally(self, format: str, columns: Sequence[str]) -> Tally:
        """The counts of the rows, with the names of the columns that no row's reader looked at."""
        total = {name: pc.sum(self.column(name)).as_py() or 0 for name in COUNTED}
        tokens = self.column("too_long").to_numpy()
        long = tokens[tokens > 0]
        numbers = pc.unique(pc.list_flatten(self.column("seen")))
        seen = {columns[number] for number in numbers.to_pylist()}
        return Tally(
            rows=len(self),
            format=format,
            unread=[name for name in columns if name not in seen],
            bad=[f"row {row}: {reason}" for row, reason in self.texts("bad")],
            too_long=len(long),
            shortest=int(long.min()) if len(long) else 0,
            left_out=[text for _, text in self.texts("left_out")],
            **total,
        )

    def texts(self, name: str) -> list[tuple[int, str]]:
        """The rows that have a text in a column, with it."""
        column = self.column(name)
        rows = np.flatnonzero(column.is_valid().to_numpy())
        texts = [data.decode("utf-8", "surrogatepass") for data in column.drop_null().to_pylist()]
        return list(zip(rows.tolist(), texts, strict=True))


class Tokens:
    """A column of lists of 32-bit integers, without a Python object for each."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        self.starts = np.cumsum([0, *map(len, chunks)]).tolist()
        # Offsets of a chunk that is a slice count from the start of the values of the whole.
        self.offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        values = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
        self.values = [memoryview(numbers) for numbers in values]

    def read(self, row: int) -> array[int]:
        """The list of a row."""
        chunk = bisect_right(self.starts, row) - 1
        place = row - self.starts[chunk]
        first, end = self.offsets[chunk][place : place + 2].tolist()
        return array("i", bytes(self.values[chunk][first:end]))

    def views(self) -> Iterator[memoryview]:
        """All lists, where they lie in memory."""
        for values, offset in zip(self.values, self.offsets, strict=True):
            ends = offset.tolist()
            yield from (values[first:end] for first, end in pairwise(ends))

    def lengths(self) -> NDArray[np.int64]:
        """The length of every list."""
        return np.concatenate([np.diff(offset) for offset in self.offsets]).astype(np.int64)


def token_bytes(*lists: Any) -> bytes:
    """Arrays of tokens as bytes, equal for equal arrays alone."""
    # Each list has its length before it, or a token could move between prompt and completion.
    return b"".join([part for ids in lists for part in (COUNT(len(ids)), ids)])


COUNT = struct.Struct("=i").pack
