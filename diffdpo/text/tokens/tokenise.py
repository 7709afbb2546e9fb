"""Tokenises the rows of a data set: in batches, by worker processes, and where they are many once,
into a table that later runs and other processes read."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import parent_process
from typing import Any

import pyarrow as pa
from accelerate import Accelerator
from datasets import Dataset
from datasets.table import InMemoryTable
from tqdm.auto import tqdm

from diffdpo.cache.tables import OnePass, shards, table
from diffdpo.data.text.record import as_bad_row
from diffdpo.errors import UserError
from diffdpo.text.tokens.row_reader import RowReader, RowResult
from diffdpo.text.tokens.token_key import token_key
from diffdpo.text.tokens.token_table import FEATURES, TokenTable, as_table

BATCH = 256  # rows that the tokenizer gets at once
SHARD = 8192  # rows of a shard of a table, at most: a killed run loses a few seconds of work

AHEAD = 3  # batches of a worker that are asked for before they are needed

Tokenise = Callable[[Iterator[range]], Iterator[tuple[int, pa.Table]]]


@dataclass(frozen=True)
class Store:
    """Where tables of tokens are kept, and the processes that share them."""

    root: str
    accelerator: Accelerator


def tokenised(
    reader: RowReader,
    dataset: Dataset,
    processes: int | None = None,
    store: Store | None = None,
    quiet: bool = True,
) -> TokenTable:
    """The tokens of all rows, by ``processes`` workers or as many as there are CPUs for. Without a
    ``store`` they are kept in memory.

    Raises UserError where the data hold something that is not read and would be missed, or a worker
    is ended from outside.
    """
    rows = len(dataset)
    small = rows <= reader.kept_in_memory
    wanted = processes or (1 if small else cpus())
    with workers(reader, dataset, min(wanted, -(-rows // BATCH))) as tokenise:
        if store is None or small:
            return in_memory(tokenise, rows, quiet)
        key, ranges = token_key(reader, dataset), shards(rows, SHARD)
        one_pass = OnePass(tokenise)
        stored = table(store.root, key, FEATURES, rows, one_pass, store.accelerator, ranges)
    return TokenTable(stored)


def in_memory(tokenise: Tokenise, rows: int, quiet: bool) -> TokenTable:
    """The tokens of all rows, kept nowhere else."""
    parts = []
    with tqdm(total=rows, desc="tokenising", unit="row", disable=quiet, leave=False) as bar:
        for _, part in tokenise(iter([range(rows)])):
            parts.append(part)
            bar.update(len(part))
    return TokenTable(Dataset(InMemoryTable(pa.concat_tables(parts))))


def cpus() -> int:
    """The CPUs of this process, where several of a launcher share them."""
    # Fewer than the machine has where a scheduler says so, which Linux alone tells.
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (count or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def workers(reader: RowReader, dataset: Dataset, processes: int) -> Iterator[Tokenise]:
    """A function from ranges of rows to their tokens, batch by batch with the number of the first
    row; none of the processes starts
    before it is called."""
    # Processes take the place of the tokenizer's own threads, which do not outlive a fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if processes == 1:
        yield lambda spans: (
            (part.start, tokens_of(reader, dataset, part)) for part in batches(spans)
        )
        return
    pool = ProcessPoolExecutor(processes, initializer=enter, initargs=(reader, dataset))

    def tokenise(spans: Iterator[range]) -> Iterator[tuple[int, pa.Table]]:
        parts = ((part.start, pool.submit(tokens_here, part)) for part in batches(spans))
        try:
            asked = deque(islice(parts, AHEAD * processes))
            while asked:
                first, tokens = asked.popleft()
                yield first, tokens.result()
                asked.extend(islice(parts, 1))
        except BrokenProcessPool as error:
            raise UserError(
                f"--dataset_num_proc: one of {processes} processes that tokenise was ended from"
                " outside, perhaps for want of memory; take fewer"
            ) from error

    try:
        yield tokenise
    finally:
        pool.shutdown(cancel_futures=True)


def batches(spans: Iterator[range]) -> Iterator[range]:
    """Ranges of rows in parts of a batch each."""
    for span in spans:
        for first in range(0, len(span), BATCH):
            yield span[first : first + BATCH]


def tokens_of(reader: RowReader, dataset: Dataset, span: range) -> pa.Table:
    """The tokens of some rows."""
    return as_table(read_rows(reader, dataset, span), dataset.column_names)


def read_rows(reader: RowReader, dataset: Dataset, span: range) -> list[RowResult]:
    """What becomes of some rows, with those that cannot be opened."""
    read, closed = [], {}
    for row, record in zip(span, records(dataset, span), strict=True):
        if isinstance(record, Exception):
            closed[row] = RowResult(row, bad=str(as_bad_row(record)))
        else:
            read.append((row, record))
    results = iter(reader.read_all(read))
    return [closed.get(row) or next(results) for row in span]


def records(dataset: Dataset, span: range) -> Sequence[dict[str, Any] | Exception]:
    """Some rows, or what was raised in place of one."""
    try:
        columns = dataset[span.start : span.stop]
    except Exception:  # of one row among them
        return [one_record(dataset, row) for row in span]
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def one_record(dataset: Dataset, row: int) -> dict[str, Any] | Exception:
    """A row, or what was raised in its place."""
    try:
        return dict(dataset[row])
    except Exception as error:  # text that is no UTF-8, a picture that cannot be decoded
        return error


OPENED: list[tuple[RowReader, Dataset]] = []  # in a worker: what it reads with, and from


def enter(reader: RowReader, dataset: Dataset) -> None:
    """Begin as a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for this one is told
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=end_with_parent, daemon=True).start()
    OPENED[:] = [(reader, dataset)]


def end_with_parent() -> None:
    """End where the process that gives the work has ended: it may have been killed, and a worker
    would wait for more for ever."""
    parent = parent_process()
    assert parent is not None, "workers have a parent"
    parent.join()
    os._exit(1)


def tokens_here(span: range) -> pa.Table:
    """The tokens of some rows, in a worker."""
    ((reader, dataset),) = OPENED
    return tokens_of(reader, dataset, span)
