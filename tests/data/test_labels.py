"""Columns of labels are read as a whole, and each value as it would be by itself."""

import math
from decimal import Decimal

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

from diffdpo.data.labels import choices, mapped, numbers, responses
from diffdpo.data.values import as_number

COLUMNS = {
    "floats": [0.5, None, float("nan"), float("inf"), -1.0],
    "wholes": [1, 0, None, 2**53 + 1, -(2**62)],
    "truths": [True, False, None, True, False],
    "texts": ["1", " 0.5 ", "", None, "x"],
    "lists": [[1.0], [], None, [2.0, 3.0], [4.0]],
    "decimals": [Decimal("0.25"), None, Decimal("1"), Decimal("0"), Decimal("0.5")],
    "nothing": [None] * 5,
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_is_cast_to_what_python_makes_of_its_values(name):
    values = COLUMNS[name]
    expected = np.array([as_number(value) for value in values])
    rows = Dataset.from_dict({"c": values})
    np.testing.assert_array_equal(numbers(rows, "c"), expected)
    # In another order, and in several chunks.
    turned = concatenate_datasets([rows.select([4, 1]), rows])
    np.testing.assert_array_equal(numbers(turned, "c"), [*expected[[4, 1]], *expected])


@pytest.mark.parametrize("kind", ["float16", "float32", "uint64", "int8"])
def test_every_width_of_a_number_is_read(kind):
    rows = Dataset.from_dict({"c": [0, 1, None]}, features=Features({"c": Value(kind)}))
    np.testing.assert_array_equal(numbers(rows, "c"), [0, 1, math.nan])


def test_a_class_counts_as_its_number():
    features = Features({"c": ClassLabel(names=["lost", "won"])})
    rows = Dataset.from_dict({"c": ["won", "lost"]}, features=features)
    assert numbers(rows, "c").tolist() == [1, 0]


def test_a_text_is_looked_at_once_however_often_it_is_there():
    asked = []
    values = Dataset.from_dict({"c": ["a", "b", None] * 50}).with_format("arrow")[:].column(0)
    found = mapped(values, lambda word: asked.append(word) or float(word == "a"))
    assert found.tolist() == [1, 0, 0] * 50
    assert asked == ["a", "b", None]


def test_shares_of_two_counts_by_row():
    cells = [[3, 1], [0, 0], None, [1], [-1, 2], [0, 5], [None, 1], [1, 2, 3]]
    rows = Dataset.from_dict({"choice_dist": cells})
    expected = [0.75, math.nan, math.nan, math.nan, math.nan, 0, math.nan, math.nan]
    np.testing.assert_array_equal(choices(rows), expected)
    for others in ([1.0, 2.0], ["a", "b"]):
        assert np.isnan(choices(Dataset.from_dict({"choice_dist": others}))).all()


def test_means_of_words_by_row():
    words = [["image_1"], ["image_1", "both_bad"], [], None, ["image_2", "?"], ["image_2", None]]
    rows = Dataset.from_dict({"preference.responses": words})
    expected = [1, 0.75, math.nan, math.nan, math.nan, math.nan]
    np.testing.assert_array_equal(responses(rows), expected)
