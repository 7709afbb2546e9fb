"""The reference's scores, computed once and kept for every later run that would ask for the same,
in either modality.

The draws of a pair are a function of (seed, pair, visit); with K draws a pair, visit v sees draw v
mod K again.
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
    """Rows whose items carry the reference's scores; ``read`` goes round the K stored draws."""

    def __init__(self, rows: Rows, scores: Dataset, draws: int) -> None:
        self.rows, self.scores, self.draws = rows, scores, draws

    @property
    def fingerprint(self) -> str:
        """That of the rows, and how many draws they are seen at."""
        return f"{self.rows.fingerprint}, {self.draws} draws"

    def __len__(self) -> int:
        return len(self.rows)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """That of the rows."""
        return self.rows.order(seed, epoch)

    def read(self, row: int, visit: int) -> Any:
        """An item with the scores of its sides."""
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
    """The rows with the reference's scores at ``draws`` draws each, and the reference that reads
    them.

    ``key`` names all that the scores depend on, ``batch`` the rows at once: where these are as many
    as in training, the numbers are the same to the last bit. Raises UserError where the scores
    cannot be kept.
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
    """Scores ``(rows, sides)`` of some rows at one draw."""
    items = [rows.read(number, draw) for number in numbers]
    # A full batch, as in training: its shape decides how sums are rounded.
    items += items[-1:] * (batch - len(items))
    inputs = task.draw(task.collate(items))
    score_N = torch.as_tensor(reference.score(task.score, model, inputs))
    return score_N.view(-1, batch).T[: len(numbers)].float().cpu()
