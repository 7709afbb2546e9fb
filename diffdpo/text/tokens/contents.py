"""Tokens and labels of the items of a table as bytes, made by Arrow many at a time: every start of
a run reads them all once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from diffdpo.text.tokens.token_table import TokenTable

BYTES = pa.large_binary()
NOTHING = pa.scalar(b"", BYTES)
Numbers = NDArray[np.int64]


def contents(
    table: TokenTable, row_I: Numbers, side_I: Numbers, paired: bool
) -> Iterator[pa.LargeBinaryArray]:
    """The bytes of items, equal for equal items alone, in the order of the table, some at a time.

    An item is a row or, where ``paired`` is false, the side of a pair; it may be asked for several
    times.
    """
    key_I = np.sort(2 * row_I + side_I)
    row_I, side_I = key_I >> 1, key_I & 1
    start = 0
    for batch in table.stored.data.to_batches():  # as they lie in memory or in files
        stop = start + len(batch)
        first, end = np.searchsorted(row_I, (start, stop))
        if first < end:
            yield items_of(batch, row_I[first:end] - start, side_I[first:end], paired)
        start = stop


def items_of(
    batch: pa.RecordBatch, row_I: Numbers, side_I: Numbers, paired: bool
) -> pa.LargeBinaryArray:
    """The bytes of these items of a few rows."""
    count_I = batch["sides"].to_numpy()[row_I]
    label = pc.fill_null(pc.cast(batch["desirable"], pa.int8()), pa.scalar(-1, pa.int8()))
    label_I, outcome_I = label.to_numpy()[row_I], batch["outcome"].to_numpy()[row_I]
    apart_I = (count_I == 2) & (not paired)
    label_I = np.where(apart_I, side_I == 0, label_I)
    outcome_I = np.where(apart_I, 1.0, outcome_I)
    has_first_I = ~apart_I | (side_I == 0)
    has_second_I = (count_I == 2) & (~apart_I | (side_I == 1))
    rows = pa.array(row_I)
    return pc.binary_join_element_wise(
        counted(batch["prompt"]).take(rows),
        pc.if_else(pa.array(has_first_I), counted(batch["first"]).take(rows), NOTHING),
        pc.if_else(pa.array(has_second_I), counted(batch["second"]).take(rows), NOTHING),
        labels(outcome_I, label_I),
        pc.cast(pc.fill_null(batch["look"], b""), BYTES).take(rows),
        NOTHING,
    )


def counted(lists: pa.ListArray) -> pa.LargeBinaryArray:
    """Lists of tokens as bytes, each with its length before it: or a token could move between a
    prompt and its completion."""
    offset = lists.offsets.to_numpy().astype(np.int64)
    tokens = binary(4 * offset, lists.values.to_numpy(zero_copy_only=True))
    lengths = binary(4 * np.arange(len(offset)), np.diff(offset).astype(np.int32))
    return pc.binary_join_element_wise(lengths, tokens, NOTHING)


def labels(outcome_I: NDArray[np.float64], label_I: NDArray[np.int8]) -> pa.LargeBinaryArray:
    """P(chosen ≻ rejected) and the label of a single completion as bytes; −1: none."""
    values, place_I = np.unique(outcome_I + 1j * label_I, return_inverse=True)
    words = [
        repr((value.real, None if value.imag < 0 else bool(value.imag))).encode()
        for value in values.tolist()
    ]
    return pa.array(words, BYTES).take(pa.array(place_I))


def binary(offsets: Numbers, values: NDArray[np.int32]) -> pa.LargeBinaryArray:
    """Parts of an array as bytes, which are not copied."""
    buffers = [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(values)]
    return pa.Array.from_buffers(BYTES, len(offsets) - 1, buffers)


def whole(array: pa.LargeBinaryArray) -> memoryview:
    """All bytes of an array, as they lie one behind the other."""
    _, offsets, values = array.buffers()
    first, end = np.frombuffer(offsets, np.int64)[[array.offset, array.offset + len(array)]]
    return memoryview(values)[first:end]
