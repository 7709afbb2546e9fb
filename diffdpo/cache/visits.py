"""Which score of a table belongs to which visit of a row."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from diffdpo.engine.batches import Rows, Stream


class Visits(Protocol):
    """The visits of rows whose scores a table holds, in the table's order."""

    draws: int  # that a row goes round: visit v has draw v mod draws
    grows: bool  # whether those of a shorter run are the beginning of these

    def __len__(self) -> int: ...

    def at(self, place: int) -> tuple[int, int]:
        """The row and the draw at a place of the table."""
        ...

    def place(self, row: int, draw: int) -> int:
        """The place of a row's draw."""
        ...


class OneVisit:
    """Each row once, in the order of the rows: nothing is drawn, so that no visit differs."""

    draws, grows = 1, False

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, place: int) -> tuple[int, int]:
        return place, 0

    def place(self, row: int, draw: int) -> int:
        return row


class RunVisits:
    """The first visits of a run in the run's own order, as long as their draws are new: of a
    shorter run they are the beginning of those of a longer one."""

    grows = True

    def __init__(self, rows: Rows, seed: int, draws: int, positions: int) -> None:
        """``positions`` is the number of pairs that the run sees."""
        self.stream, self.draws = Stream(rows, seed), draws
        self.count = min(positions, draws * len(rows))
        self.places: dict[int, np.ndarray] = {}  # by draw: the place of each row in its order

    def __len__(self) -> int:
        return self.count

    def at(self, place: int) -> tuple[int, int]:
        epoch, row = self.stream.at(place)
        return row, epoch

    def place(self, row: int, draw: int) -> int:
        if draw not in self.places:
            order = self.stream.rows.order(self.stream.seed, draw)
            inverse = np.empty(len(order), dtype=np.int64)
            inverse[order] = np.arange(len(order))
            # A batch may cross the end of an epoch, and belong to two draws.
            newest = list(self.places.items())[-1:]
            self.places = dict([*newest, (draw, inverse)])
        return draw * len(self.stream.rows) + int(self.places[draw][row])


class Visited(Dataset):
    """The items of visits, by their place; for the processes that read ahead."""

    def __init__(self, rows: Rows, visits: Visits) -> None:
        self.rows, self.visits = rows, visits

    def __getitem__(self, place: int) -> Any:
        return self.rows.read(*self.visits.at(place))
