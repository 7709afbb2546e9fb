"""The reference's scores, computed once and read by every later run that needs the same.

The draws of a pair are a function of (seed, pair, visit). With K stored draws a pair, visit v uses
draw v mod K.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, List, Value
from torch import nn

from diffdpo.cache.keys import Key
from diffdpo.cache.tables import table
from diffdpo.engine.batches import Rows
from diffdpo.engine.task import Task
from diffdpo.reference import Reference, StoredScores


class RowsWithScores(Rows):
    """Rows whose items carry the reference's scores; ``read`` cycles through K stored draws."""

    def __init__(self, rows: Rows, scores: Dataset, draws: int) -> None:
        self.rows, self.scores, self.draws = rows, scores, draws

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the rows, with the number of draws."""
        return f"{self.rows.fingerprint}, {self.draws} draws"

    def __len__(self) -> int:
        return len(self.rows)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """The order of the rows themselves."""
        return self.rows.order(seed, epoch)

    def source(self, row: int) -> int:
        """The row of the data set."""
        return self.rows.source(row)

    def read(self, row: int, visit: int) -> Any:
        """An item with the reference's scores of its sides at the draw of this visit."""
        # The visit is replaced as well: scores belong to the draw at which they were computed.
        draw = visit % self.draws
        stored = self.scores[row]["scores"]
        sides = len(stored) // self.draws
        return replace(
            self.rows.read(row, draw), reference=tuple(stored[draw * sides : (draw + 1) * sides])
        )


def score_rows(
    rows: Rows,
    task: Task,
    model: nn.Module,
    reference: Reference,
    draws: int,
    batch: int,
    key: Key,
    root: str,
    accelerator: Accelerator,
) -> tuple[RowsWithScores, StoredScores]:
    """Rows that carry the reference's scores at ``draws`` draws, and the reference that reads them.

    ``key`` names all that the scores depend on. ``batch`` rows are scored at once: with the batch
    size of training the scores are those of training to the last bit.

    Raises UserError where the scores cannot be stored.
    """

    def compute(span: range) -> Iterator[dict[str, Any]]:
        for first in range(span.start, span.stop, batch):
            numbers = range(first, min(first + batch, span.stop))
            columns = [
                score_batch(rows, task, model, reference, numbers, draw, batch)
                for draw in range(draws)
            ]
            for row in torch.cat(columns, dim=1).tolist():
                yield {"scores": row}

    features = Features({"scores": List(Value("float32"))})
    scores = table(root, key, features, len(rows), compute, accelerator)
    return RowsWithScores(rows, scores, draws), StoredScores(reference)


def score_batch(
    rows: Rows,
    task: Task,
    model: nn.Module,
    reference: Reference,
    numbers: range,
    draw: int,
    batch: int,
) -> torch.Tensor:
    """Scores ``(rows, sides)`` of the rows ``numbers`` at one draw."""
    items = [rows.read(number, draw) for number in numbers]
    # Filled up to a full batch, as in training: the shape of a batch decides how sums are rounded.
    items += items[-1:] * (batch - len(items))
    inputs = task.draw(task.collate(items))
    score_N = torch.as_tensor(reference.score(task.score, model, inputs))
    return score_N.view(-1, batch).T[: len(numbers)].float().cpu()
