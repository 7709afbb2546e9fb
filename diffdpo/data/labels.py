"""Columns of labels as arrays, cast as a whole: one Python object a value would be half of a start.

What the columns of a public data set hold becomes P(first image ≻ second image): 1, 0, 1/2 for a
tie, NaN where it cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow
from datasets import Dataset
from pyarrow import compute as arrow
from pyarrow import types

from diffdpo.data.values import as_number

RESPONSES = {"image_1": 1.0, "image_2": 0.0, "both_good": 0.5, "both_bad": 0.5}


def always(dataset: Dataset) -> np.ndarray:
    """1 for every row: the first image is the chosen one."""
    return np.ones(len(dataset))


def pickapic_label(dataset: Dataset) -> np.ndarray:
    """label_0 of Pick-a-Pic: 1, 0 or 0.5. Where there is a label_1, the two must add up to 1."""
    first = numbers(dataset, "label_0")
    if "label_1" in dataset.column_names:
        # Labels that do not add up to 1 are no vote; label_0 alone would pass for one.
        first = np.where(np.isclose(first + numbers(dataset, "label_1"), 1), first, np.nan)
    return np.where((first >= 0) & (first <= 1), first, np.nan)


def votes(first: str, second: str) -> Callable[[Dataset], np.ndarray]:
    """The first image's share of the votes; of none there is no label."""

    def read(dataset: Dataset) -> np.ndarray:
        return share(numbers(dataset, first), numbers(dataset, second))

    return read


def share(first_N: np.ndarray, second_N: np.ndarray) -> np.ndarray:
    """The first of two counts as a share of both; NaN where they are no counts, or none."""
    given = (first_N >= 0) & (second_N >= 0) & (first_N + second_N > 0)
    total = np.where(given, first_N + second_N, 1)
    return np.where(given, first_N / total, np.nan)


def left_or_right(dataset: Dataset) -> np.ndarray:
    """1 for the left image, -1 for the right one, 0 for neither."""
    preferred = numbers(dataset, "pref")
    return np.where(np.isin(preferred, (-1, 0, 1)), (preferred + 1) / 2, np.nan)


def choices(dataset: Dataset) -> np.ndarray:
    """HPDv3's votes, of which the first are those of the image that was preferred; NaN where there
    are no two counts."""
    cells = column_of(dataset, "choice_dist")
    labels = np.full(len(cells), np.nan)
    if is_list(cells.type):
        two = lengths(cells) == 2
        flat = arrow.list_flatten(arrow.filter(cells, pyarrow.array(two)))
        labels[two] = share(*as_numbers(flat).reshape(-1, 2).T)
    return labels


def responses(dataset: Dataset) -> np.ndarray:
    """The mean of the words of all annotators: for the first image 1, for neither 1/2; NaN where
    there are no words, or others."""
    cells = column_of(dataset, "preference.responses")
    if not is_list(cells.type):
        return np.full(len(cells), np.nan)
    counts = lengths(cells)
    values = mapped(arrow.list_flatten(cells), as_response)
    sums = np.bincount(np.repeat(np.arange(len(counts)), counts), values, len(counts))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def as_response(word: object) -> float:
    """An annotator's word as a number; NaN where it is another."""
    return RESPONSES.get(word, float("nan")) if isinstance(word, str) else float("nan")


def numbers(dataset: Dataset, column: str) -> np.ndarray:
    """A column as floats, NaN where a value is no number."""
    return as_numbers(column_of(dataset, column))


def column_of(dataset: Dataset, column: str) -> pyarrow.ChunkedArray:
    """A column as it is stored."""
    return dataset.select_columns(column).with_format("arrow")[:].column(0)


def as_numbers(values: pyarrow.ChunkedArray) -> np.ndarray:
    """Values as floats, NaN where one is no number; 1, "1" and True are the same."""
    kind = values.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        # Whole numbers beyond 2^53 are rounded, as Python rounds them.
        floats = arrow.cast(values, pyarrow.float64(), safe=False)
        return np.asarray(arrow.fill_null(floats, np.nan), dtype=np.float64)
    return mapped(values, as_number)


def mapped(values: pyarrow.ChunkedArray, function: Callable[[Any], float]) -> np.ndarray:
    """A function of each value, as floats; of texts it is called once for each that is another."""
    if not (types.is_string(values.type) or types.is_large_string(values.type)):
        return np.array([function(value) for value in values.to_pylist()], dtype=np.float64)
    distinct = arrow.unique(values)
    results = np.array([function(value) for value in distinct.to_pylist()], dtype=np.float64)
    return results[np.asarray(arrow.index_in(values, value_set=distinct), dtype=np.int64)]


def is_list(kind: pyarrow.DataType) -> bool:
    """Whether a column of this type holds lists."""
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def lengths(cells: pyarrow.ChunkedArray) -> np.ndarray:
    """The length of each list, 0 where there is none."""
    return np.asarray(arrow.fill_null(arrow.list_value_length(cells), 0), dtype=np.int64)
