"""Which pair is seen when: one endless stream of positions, a pure function of (seed, number of
pairs).

Position p is row ``p mod n`` of epoch ``p div n``'s permutation. Step s of effective batch E reads
positions s·E … s·E + E − 1, cut among processes and micro-batches; so neither the cut nor a restart
changes what a step sees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from diffdpo.draws import epoch_order
from diffdpo.errors import UserError, short


class Rows(Protocol):
    """A data set of preference pairs, read by row number and by visit (how often it was seen)."""

    @property
    def fingerprint(self) -> str:
        """A digest that changes when the rows or their order change."""
        ...

    def __len__(self) -> int: ...

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The permutation in which an epoch visits the rows; a subclass may choose another."""
        return epoch_order(seed, epoch, len(self))

    def read(self, row: int, visit: int) -> Any:
        """One item, ready for collation; ``visit`` selects its random draws."""
        ...

    def source(self, row: int) -> int:
        """The number that the row has in the data set, before any were left out; for messages."""
        return row


class Subset(Rows):
    """The rows ``numbers`` of others, each with the draws that it has among them."""

    def __init__(self, rows: Rows, numbers: np.ndarray) -> None:
        self.rows, self.numbers = rows, numbers

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the rows, with the choice of them."""
        choice = hashlib.sha256(np.asarray(self.numbers, dtype=np.int64).tobytes()).hexdigest()
        return f"{self.rows.fingerprint}, {len(self)} of them: {choice}"

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, row: int, visit: int) -> Any:
        """The item that the rows themselves give."""
        return self.rows.read(int(self.numbers[row]), visit)

    def source(self, row: int) -> int:
        """The row of the data set."""
        return self.rows.source(int(self.numbers[row]))


class Stream(Dataset):
    """The rows in the order of the stream, addressed by position."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.epoch, self.order = -1, np.empty(0)

    def __getitem__(self, position: int) -> Any:
        """The item at a position, or the mistake for which there is none."""
        epoch, row = self.at(position)
        try:
            return self.rows.read(row, epoch)
        except UserError as error:
            # Handed over and raised in the run's own process: raised in a worker it would arrive
            # with a traceback for its text.
            return error

    def at(self, position: int) -> tuple[int, int]:
        """The epoch of a position, and the row that is read there."""
        # Per position and not per batch: a batch may cross the end of an epoch.
        epoch, index = divmod(position, len(self.rows))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self.rows.order(self.seed, epoch)
        return epoch, int(self.order[index])

    def source(self, position: int) -> int:
        """The row of the data set that is read at a position."""
        return self.rows.source(self.at(position)[1])


def check_batch(effective_batch: int, rows: int) -> None:
    """Raise UserError where one step would read every row more than a thousand times."""
    if effective_batch > 1000 * rows:
        raise UserError(
            f"one step would read each of the {rows:,} rows {effective_batch // rows:,} times:"
            " lower --train_batch_size or --gradient_accumulation_steps"
        )


def positions(
    start: int, steps: int, micro: int, accumulation: int, rank: int, world: int
) -> Iterator[list[int]]:
    """The positions of each micro-batch of one process from step ``start`` up to ``steps``."""
    for step in range(start, steps):
        for index in range(accumulation):
            first = ((step * accumulation + index) * world + rank) * micro
            yield list(range(first, first + micro))


@dataclass(frozen=True)
class Handover:
    """Collates items, unless one of them is a mistake, which is handed over in their place."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, items: list[Any]) -> Any:
        mistakes = [item for item in items if isinstance(item, UserError)]
        return mistakes[0] if mistakes else self.collate(items)


def step_batches(
    stream: Stream,
    plan: Iterable[list[int]],
    collate: Callable[[list[Any]], Any],
    accumulation: int,
    workers: int,
    pin: bool = False,
) -> Iterator[list[Any]]:
    """The micro-batches of every optimizer step, read by ``workers`` processes ahead of time, where
    asked for into pinned memory.

    Raises UserError for what ``stream`` cannot read, and where a worker is killed.
    """
    loader: Any = DataLoader(
        stream,
        batch_sampler=plan,  # type: ignore[arg-type]
        collate_fn=Handover(collate),
        num_workers=workers,
        pin_memory=pin,
    )
    micro_batches = without_mistakes(loader)
    while True:
        # The range first: in the other order zip would take a batch too many and drop it.
        group = [batch for _, batch in zip(range(accumulation), micro_batches, strict=False)]
        if not group:
            return
        yield group


def without_mistakes(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches up to the first mistake, which is raised."""
    try:
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise UserError(
            f"a process that reads data is gone ({short(error, 200)}); where it ran out of memory,"
            " or of shared memory (in a container: a larger --shm-size), lower"
            " --dataloader_num_workers; 0 reads in the run's own process"
        ) from error
