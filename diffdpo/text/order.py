"""An order of rows in which rows of like length meet in a step."""

from __future__ import annotations

from typing import Any

import numpy as np

from diffdpo.draws import Purpose, epoch_order, generator
from diffdpo.engine.batches import Rows
from diffdpo.text.rows import TextRows
from diffdpo.text.settings import TextSettings

STEPS_AT_ONCE = 50  # whose rows are sorted together, as in transformers' LengthGroupedSampler


class ByLength(Rows):
    """The same rows, each step's of like length; the order is a function of (seed, epoch, effective
    batch)."""

    def __init__(self, rows: TextRows, effective_batch: int) -> None:
        self.rows, self.batch = rows, effective_batch
        self.size = np.array(
            [len(item.prompt) + max(map(len, item.completions)) for item in rows.items]
        )

    @property
    def fingerprint(self) -> str:
        """That of the rows."""
        return self.rows.fingerprint

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int, visit: int) -> Any:
        """An item."""
        return self.rows.read(row, visit)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """A permutation. Its steps come in any order of length, so that training does not go from
        long to short."""
        count, batch = len(self), self.batch
        shuffled = epoch_order(seed, epoch, count)
        first = -epoch * count % batch  # the first rows may belong to the last epoch's last step
        chance = generator(seed, Purpose.ORDER, item=1, draw=epoch)
        parts = [shuffled[:first]]
        for start in range(first, count, batch * STEPS_AT_ONCE):
            some = shuffled[start : start + batch * STEPS_AT_ONCE]
            some = some[np.argsort(-self.size[some], kind="stable")]
            whole = len(some) // batch
            steps = some[: whole * batch].reshape(whole, batch)
            parts += [steps[chance.permutation(whole)].ravel(), some[whole * batch :]]
        return np.concatenate(parts)


def in_order(rows: TextRows, settings: TextSettings, world: int) -> Rows:
    """The rows in the order that the settings ask for, on ``world`` processes."""
    if not settings.group_by_length:
        return rows
    return ByLength(rows, settings.train_batch_size * settings.gradient_accumulation_steps * world)
