"""The reference's scores, computed once and read by every later run that needs the same.

The draws of a pair are a function of (seed, pair, visit). With K stored draws a pair, visit v uses
draw v mod K. Scores are computed visit by visit in the order of training, in its batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, List, Value
from torch import Tensor, nn
from torch.utils.data import DataLoader

from diffdpo.batched import batched
from diffdpo.cache.fetching import one_behind
from diffdpo.cache.keys import Key
from diffdpo.cache.shards import Cost, Numbered, numbered
from diffdpo.cache.tables import OnePass, table
from diffdpo.cache.visits import OneVisit, Visited, Visits
from diffdpo.engine.batches import Rows
from diffdpo.engine.task import Task
from diffdpo.reference import Reference, StoredScores

ROW = Features({"scores": List(Value("float32"))})
SIDES = 2
COST = Cost(bytes=4 * (SIDES + 1), passes=SIDES)  # floats, and where they begin


class RowsWithScores(Rows):
    """Rows whose items carry the reference's scores; ``read`` cycles through stored draws."""

    def __init__(self, rows: Rows, scores: Dataset, visits: Visits) -> None:
        self.rows, self.scores, self.visits = rows, scores, visits

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the rows, with the number of draws."""
        return f"{self.rows.fingerprint}, {self.visits.draws} draws"

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
        draw = visit % self.visits.draws
        stored = self.scores[self.visits.place(row, draw)]["scores"]
        return replace(self.rows.read(row, draw), reference=tuple(stored))


@dataclass(frozen=True)
class Scorer:
    """What computes the reference's scores: ``batch`` rows at once, which ``workers`` processes
    read ahead."""

    rows: Rows
    visits: Visits
    task: Task
    model: nn.Module
    reference: Reference
    batch: int
    workers: int

    def scores(self, spans: Iterator[range]) -> Iterator[Numbered]:
        """The table rows of ``spans``, with their numbers."""
        asked: deque[range] = deque()

        def plan() -> Iterator[list[int]]:
            for span in spans:
                for places in batched(span, self.batch):
                    asked.append(places)
                    # Filled up to a full batch, as in training: the shape of a batch decides how
                    # sums are rounded.
                    yield [*places, *[places[-1]] * (self.batch - len(places))]

        batches = DataLoader(
            Visited(self.rows, self.visits),
            batch_sampler=plan(),
            collate_fn=self.task.collate,
            num_workers=self.workers,
        )  # type: ignore[arg-type]
        results = ((asked.popleft(), self.score(batch)) for batch in batches)
        for places, score_BS in one_behind(results):
            rows = ({"scores": row} for row in score_BS[: len(places)].tolist())
            yield from numbered(places, rows)

    def score(self, batch: Any) -> Tensor:
        """Scores ``(B, sides)`` of a batch."""
        inputs = self.task.draw(batch)
        score_N = torch.as_tensor(self.reference.score(self.task.score, self.model, inputs))
        return score_N.view(-1, self.batch).T.float()


def score_rows(
    rows: Rows,
    task: Task,
    model: nn.Module,
    reference: Reference,
    batch: int,
    key: Key,
    root: str,
    accelerator: Accelerator,
    workers: int,
    visits: Visits | None = None,
) -> tuple[RowsWithScores, StoredScores]:
    """Rows that carry the reference's scores at ``visits``, by default one of each row, and the
    reference that reads them.

    ``key`` names all that the scores depend on. ``batch`` rows are scored at once: with the batch
    size of training the scores are those of training to the last bit.

    Raises UserError where the scores cannot be stored.
    """
    visits = visits or OneVisit(rows)
    scorer = Scorer(rows, visits, task, model, reference, batch, workers)
    one_pass = OnePass(scorer.scores)
    count, grows = len(visits), visits.grows
    scores = table(root, key, ROW, count, one_pass, accelerator, cost=COST, grows=grows)
    return RowsWithScores(rows, scores, visits), StoredScores(reference)
