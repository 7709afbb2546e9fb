"""The order of rows under ``--group_by_length``: rows of like length come in one step."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffdpo.draws import Purpose, epoch_order, generator
from diffdpo.engine.batches import Rows
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.settings import TextSettings

STEPS_AT_ONCE = 50  # whose rows are sorted together, as in transformers' LengthGroupedSampler


class ByLength(Rows):
    """The same rows in another order: those of a step have about the same length. The order is a
    function of (seed, epoch, effective batch)."""

    def __init__(self, rows: TextRows, effective_batch: int) -> None:
        self.rows, self.batch = rows, effective_batch
        self.size = rows.length_I

    @property
    def fingerprint(self) -> str:
        """The rows' own; their order is no part of it."""
        return self.rows.fingerprint

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int, visit: int) -> Any:
        """The item of a row."""
        return self.rows.read(row, visit)

    def source(self, row: int) -> int:
        """The row of the data set."""
        return self.rows.source(row)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The permutation of an epoch. Its steps are shuffled, so that training does not go from
        long rows to short ones."""
        count, batch = len(self), self.batch
        shuffled = epoch_order(seed, epoch, count)
        first = -epoch * count % batch  # the first rows may belong to the last epoch's last step
        # Item 1, because epoch_order has drawn from item 0 of the same purpose.
        random = generator(seed, Purpose.ORDER, item=1, draw=epoch)
        chunks = [shuffled[:first]]
        # Sorted in windows, not as a whole: or a row would meet nearly the same others every epoch.
        for start in range(first, count, batch * STEPS_AT_ONCE):
            window = shuffled[start : start + batch * STEPS_AT_ONCE]
            # Stable: numpy's default sort may order equal lengths otherwise on another machine.
            window = window[np.argsort(-self.size[window], kind="stable")]
            whole = len(window) // batch
            steps = window[: whole * batch].reshape(whole, batch)
            # The last window may leave rows over; the next epoch's first ones complete their step.
            chunks += [steps[random.permutation(whole)].ravel(), window[whole * batch :]]
        return np.concatenate(chunks)


def in_order(rows: TextRows, settings: TextSettings, world: int) -> Rows:
    """The rows in the order that the settings ask for, on ``world`` processes."""
    if not settings.group_by_length:
        return rows
    return ByLength(rows, settings.train_batch_size * settings.gradient_accumulation_steps * world)
