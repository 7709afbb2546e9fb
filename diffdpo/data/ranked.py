"""Rankings of pictures as pairs: each two of them, and what their ranks say about which is better.

Shapes: ``N`` pictures, ``P`` pairs × 2 sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from typing import Any

import numpy as np
import pyarrow
from datasets import Dataset, DatasetInfo, Features, concatenate_datasets
from pyarrow import compute as arrow

from diffdpo.errors import UserError, short


@dataclass(frozen=True)
class Ranked:
    """The pairs of all rankings of a data set.

    ``pictures`` is a column of N cells, each with one picture, and ``row_N`` the row of the data
    set that holds it. ``sides_P2`` are the numbers of the first and the second picture of a pair.
    ``first_wins_P`` is 1, 0, 1/2 for equal ranks, and NaN for a ranking that cannot be read, which
    counts as one pair.
    """

    pictures: Dataset
    row_N: np.ndarray
    sides_P2: np.ndarray
    first_wins_P: np.ndarray
    rankings: int

    @property
    def row_P(self) -> np.ndarray:
        """The row of the data set from which each pair has its prompt."""
        return self.row_N[self.sides_P2[:, 0]]


Expand = Callable[[Dataset], Ranked]
Outcome = tuple[int, int, float]  # two pictures, and P(first ≻ second)


def lists(pictures: str, ranks: str, higher_wins: bool = False) -> Expand:
    """Rankings of which each row holds one: a list of pictures, and a list of as many ranks, of
    which the lower is the better."""

    def expand(dataset: Dataset) -> Ranked:
        flat, counts = flattened(dataset, pictures)
        starts = np.concatenate([[0], np.cumsum(counts)])
        found = [
            outcome
            for start, count, values in zip(starts, counts, dataset[ranks][:], strict=False)
            if count
            for outcome in each_two(range(start, start + count), as_ranks(values), higher_wins)
        ]
        return ranked(flat, np.repeat(np.arange(len(dataset)), counts), found, len(dataset))

    return expand


def groups(pictures: str, ranking: str, rank: str) -> Expand:
    """Rankings whose pictures have a row each: those that share the value of ``ranking``."""

    def expand(dataset: Dataset) -> Ranked:
        members: dict[Any, list[int]] = {}
        for row, name in enumerate(dataset[ranking][:]):
            members.setdefault(name, []).append(row)
        # Rows that do not say of which ranking they are: each is one that cannot be read.
        lost = members.pop(None, [])
        values = dataset[rank][:]
        found = [
            outcome
            for rows in members.values()
            for outcome in each_two(rows, as_ranks([values[row] for row in rows]))
        ]
        found += [outcome for row in lost for outcome in each_two([row], None)]
        flat = dataset.select_columns(pictures)
        return ranked(flat, np.arange(len(dataset)), found, len(members) + len(lost))

    return expand


def best_of(pictures: Sequence[str], best: str) -> Expand:
    """Rankings of which only the best picture is known: a pair with each of the others. A row has
    a picture in each of the columns ``pictures``, and in ``best`` what is in the best one's."""

    def expand(dataset: Dataset) -> Ranked:
        rows, table = len(dataset), dataset.with_format("arrow")[:]
        chunks = [chunk for name in pictures for chunk in table.column(name).chunks]
        features = Features({pictures[0]: dataset.features[pictures[0]]})
        names = zip(*(dataset[column][:] for column in pictures), strict=True)
        found = [
            (first * rows + row, second * rows + row, outcome)
            for row, (named, winner) in enumerate(zip(names, dataset[best][:], strict=True))
            for first, second, outcome in against_the_best(named, winner)
        ]
        flat = of_column(pyarrow.chunked_array(chunks), features)
        return ranked(flat, np.tile(np.arange(rows), len(pictures)), found, rows)

    return expand


def against_the_best(named: Sequence[Any], best: Any) -> Iterator[Outcome]:
    """The best of these with each of the others; one unreadable pair where it is not there."""
    if best is None or named.count(best) != 1:
        yield 0, 1, float("nan")
        return
    first = named.index(best)
    for other, name in enumerate(named):
        if other != first and name is not None:
            yield first, other, 1.0


def each_two(
    numbers: Sequence[int], ranks: list[float] | None, higher_wins: bool = False
) -> Iterator[Outcome]:
    """Each two of the pictures of a ranking; one unreadable pair where its ranks are not."""
    if ranks is None or len(ranks) != len(numbers):
        yield numbers[0], numbers[0], float("nan")
        return
    for i, j in combinations(range(len(numbers)), 2):
        better, worse = (ranks[j], ranks[i]) if higher_wins else (ranks[i], ranks[j])
        yield numbers[i], numbers[j], 0.5 if better == worse else float(better < worse)


def as_ranks(values: Any) -> list[float] | None:
    """Ranks as numbers; None where they are not finite ones."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        return None
    return numbers if all(map(isfinite, numbers)) else None


def flattened(dataset: Dataset, column: str) -> tuple[Dataset, np.ndarray]:
    """The pictures of a column of lists, one after another, and how many each row has.

    Raises UserError where the column holds no lists.
    """
    cells = dataset.select_columns(column).with_format("arrow")[:].column(0)
    if not (pyarrow.types.is_list(cells.type) or pyarrow.types.is_large_list(cells.type)):
        raise UserError(
            f"data: column {short(column, 40)} holds {cells.type}; a ranking has a list of pictures"
        )
    counts = arrow.fill_null(arrow.list_value_length(cells), 0).to_numpy()
    inner = Features({column: dataset.features[column].feature})
    return of_column(arrow.list_flatten(cells), inner), counts


def of_column(cells: pyarrow.ChunkedArray, features: Features) -> Dataset:
    """A data set of one column; nothing is copied."""
    return Dataset(
        pyarrow.table({next(iter(features)): cells}), info=DatasetInfo(features=features)
    )


def ranked(pictures: Dataset, row_N: np.ndarray, found: Iterable[Outcome], rankings: int) -> Ranked:
    """The pairs as arrays."""
    outcomes = list(found)
    sides_P2 = np.array([pair[:2] for pair in outcomes], dtype=np.int64).reshape(-1, 2)
    first_wins_P = np.array([pair[2] for pair in outcomes], dtype=np.float64)
    return Ranked(pictures, row_N, sides_P2, first_wins_P, rankings)


def taken_apart(column: str, *fields: str) -> Callable[[Dataset], Dataset]:
    """What makes columns of the fields of a column of records."""

    def prepare(dataset: Dataset) -> Dataset:
        cells = dataset.select_columns(column).with_format("arrow")[:].column(0)
        kinds = dataset.features[column]
        parts = [
            of_column(arrow.struct_field(cells, name), Features({name: kinds[name]}))
            for name in fields
        ]
        return concatenate_datasets([dataset.remove_columns(column), *parts], axis=1)

    return prepare
