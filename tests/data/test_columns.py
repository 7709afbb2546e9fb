"""Columns that flags name, under the names that formats read."""

import pytest
from datasets import Dataset

from diffdpo.data.columns import closest, lacking, listed, renamed, selected
from diffdpo.errors import UserError


def rows(**columns):
    return Dataset.from_dict(columns)


def test_a_named_column_takes_the_place_of_the_format_s():
    data = rows(winner=["w"], loser=["l"], text=["t"], chosen=["old"])
    given = {"chosen": "winner", "rejected": "loser", "prompt": "text", "label": None}
    assert renamed(data, given)[0] == {"chosen": "w", "rejected": "l", "prompt": "t"}
    names = {"chosen": "jpg_0", "prompt": "caption"}
    assert renamed(data, {"chosen": "winner", "prompt": "text"}, names)[0] == {
        "jpg_0": "w",
        "loser": "l",
        "caption": "t",
        "chosen": "old",
    }


def test_two_columns_can_change_places():
    data = rows(chosen=["a"], rejected=["b"])
    swapped = renamed(data, {"chosen": "rejected", "rejected": "chosen"})[0]
    assert swapped == {"chosen": "b", "rejected": "a"}


def test_no_flags_leave_the_data_as_they_are():
    assert renamed(rows(a=[1]), {"chosen": None})[0] == {"a": 1}


def test_every_mistake_is_named_with_the_column_that_comes_near():
    data = rows(winner=[1], loser=[2])
    with pytest.raises(UserError) as caught:
        renamed(data, {"chosen": "winer", "rejected": "loser", "prompt": "loser"})
    assert caught.value.mistakes == (
        "--chosen_column winer: the data have no such column (did you mean winner?); there are"
        " winner, loser",
        "--prompt_column loser: is the column of --rejected_column already; name another",
    )


def test_the_nearest_format_is_the_one_that_lacks_least():
    formats = {"a": ["chosen", "rejected", "prompt"], "b": ["text", "label"]}
    assert closest(["chosen", "rejcted", "x"], formats) == (
        "the nearest, a, lacks rejected (did you mean rejcted?), prompt"
    )
    assert lacking(["label"], formats["b"]) == "text"


def test_names_of_any_length_and_number_make_a_short_line():
    assert len(listed(["x" * 10_000, *map(str, range(1000))])) <= 200


def test_columns_that_are_chosen_are_all_that_is_left():
    data = Dataset.from_list([{"a": 1, "b": 2, "c": 3}])
    assert selected(data, ["c", "a"]).column_names == ["a", "c"]
    assert selected(data, []) is data
    with pytest.raises(UserError, match="--dataset_columns: the data have no column d"):
        selected(data, ["a", "d"])
