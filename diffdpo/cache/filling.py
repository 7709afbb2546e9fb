"""Computes the missing shards of a table, which processes share by claims."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from datasets import Features
from tqdm.auto import tqdm

from diffdpo.cache.claims import claimed
from diffdpo.cache.shards import (
    Numbered,
    Row,
    count,
    first_of,
    noted,
    numbered,
    shard_path,
    write_shard,
)
from diffdpo.engine.console import say

POLL = 0.5  # seconds between two looks at shards that other processes compute
FIRST = 15.0  # seconds of work after which it is said how long the rest will take
WORTH_SAYING = 60.0  # seconds of the rest

Compute = Callable[[range], Iterable[Row]]


@dataclass(frozen=True)
class OnePass:
    """Computes the rows of many ranges one after another, so that what it starts for one, such as
    processes that read ahead, serves all.

    ``rows`` gets the ranges while it works: each is taken when it is asked for. It hands over each
    row with its number, so that one that is left out is missed before others take its place.
    """

    rows: Callable[[Iterator[range]], Iterable[Numbered]]


def rows_of(compute: Compute | OnePass, spans: Iterator[range]) -> Generator[Numbered, None, None]:
    """The rows of all ranges, in their order, with their numbers."""
    if isinstance(compute, OnePass):
        yield from compute.rows(spans)
        return
    for span in spans:
        yield from numbered(span, compute(span))


@dataclass(frozen=True)
class Filler:
    """Where shards are written, and how."""

    folder: Path
    features: Features
    compute: Compute | OnePass
    held: int  # rows in memory before they are written

    def fill(self, missing: Sequence[range], bar: Any) -> None:
        """Compute and store the missing shards that no other process computes, and wait for
        those."""
        left = list(missing)
        while left:
            own = self.one_pass(left, bar)
            # One that was written here is not written again, should it be gone from the disk.
            there = own | {span for span in left if shard_path(self.folder, span).exists()}
            bar.update(sum(len(span) for span in there - own))
            left = [span for span in left if span not in there]
            if left and not there:
                time.sleep(POLL)

    def one_pass(self, spans: Sequence[range], bar: Any) -> set[range]:
        """Compute and store those of the shards that are free; returns them."""
        done: set[range] = set()
        with (
            Taken(self.folder, spans) as taken,
            # Closed at once where something fails: processes that read ahead end with it.
            closing(rows_of(self.compute, iter(taken))) as rows,
        ):
            for first in rows:  # of the next range
                span, claim = taken.in_turn()
                with claim:
                    whole = chain([first], first_of(rows, len(span) - count(first[1])))
                    path = shard_path(self.folder, span)
                    write_shard(path, self.features, noted(whole, span, bar), self.held)
                done.add(span)
        return done


class Taken:
    """Those of some ranges that are this process's to compute, each claimed when it is asked for.

    It ends where all are claimed or there, and does not wait for another process: that one may
    wait for a range that is taken here.
    """

    def __init__(self, folder: Path, spans: Sequence[range]) -> None:
        self.folder, self.spans = folder, spans
        self.held: deque[tuple[range, ExitStack]] = deque()

    def __iter__(self) -> Iterator[range]:
        for span in self.spans:
            path = shard_path(self.folder, span)
            if path.exists():
                continue
            claim = ExitStack()
            ours = claim.enter_context(claimed(path))
            if not ours or path.exists():
                claim.close()
                continue
            self.held.append((span, claim))
            yield span

    def in_turn(self) -> tuple[range, ExitStack]:
        """The next of them in the order in which they were taken, and its claim."""
        return self.held.popleft()

    def __enter__(self) -> Taken:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self.held:
            self.held.pop()[1].close()


class Progress:
    """A bar of the rows, and once a line with the time that the rest will take."""

    def __init__(self, kind: str, rows: int, processes: int, quiet: bool) -> None:
        self.kind, self.rows, self.processes, self.done = kind, rows, processes, 0
        self.start, self.told = time.monotonic(), False
        self.bar = tqdm(total=rows, desc=kind, unit="row", disable=quiet, leave=False)

    def update(self, rows: int = 1) -> None:
        """So many more rows are there."""
        self.done += rows
        self.bar.update(rows)
        passed = time.monotonic() - self.start
        if self.told or passed < FIRST or not self.done:
            return
        self.told = True
        rate = self.done * self.processes / passed
        left = (self.rows - self.done * self.processes) / rate
        if left > WORTH_SAYING:
            say(f"{self.kind:<12} about {duration(left)} to go, at {rate:,.3g} rows a second")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def duration(seconds: float) -> str:
    """A time to two digits, in minutes or hours."""
    if seconds < 2 * 3600:
        return f"{max(1, round(seconds / 60))} minutes"
    return f"{seconds / 3600:.2g} hours" if seconds < 360_000 else f"{seconds / 3600:,.0f} hours"
