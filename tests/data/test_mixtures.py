"""What a mixture takes of each data set: TRL's and the datasets library's own counts, and closed
forms."""

import json

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl import DatasetMixtureConfig
from trl.scripts.utils import DatasetConfig, get_dataset

from diffdpo.data.mixtures import drawn, mixed
from diffdpo.data.strategies import CONCAT, OF_MIXTURE, OF_SET, OVER, UNDER
from diffdpo.errors import UserError

LENGTHS = [7, 20, 4]


def numbered(lengths):
    """Data sets whose rows say which they are."""
    return [
        datasets.Dataset.from_dict({"set": [number] * length, "row": list(range(length))})
        for number, length in enumerate(lengths)
    ]


def taken(dataset, count):
    """The rows of every set that a data set of the library holds, ascending."""
    both = list(zip(dataset["set"], dataset["row"], strict=True))
    return [sorted(row for number, row in both if number == own) for own in range(count)]


def listed(rows):
    return [own.tolist() for own in rows]


@pytest.mark.parametrize("weights", [[0.7, 0.3], [1, 1], [3, 1], [0.05, 0.95]])
def test_shares_of_the_mixture_are_those_of_trl(weights, tmp_path):
    lengths = [11, 40]
    files = []
    for number, data in enumerate(numbered(lengths)):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in data))
    entries = [
        DatasetConfig("json", data_files=str(file), fraction=weight)
        for file, weight in zip(files, weights, strict=True)
    ]
    theirs = get_dataset(DatasetMixtureConfig(datasets=entries))["train"]
    assert listed(mixed(OF_MIXTURE, lengths, weights, 0)) == taken(theirs, 2)


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=4).flatmap(
        lambda lengths: st.tuples(
            st.just(lengths),
            st.lists(st.floats(0.2, 5), min_size=len(lengths), max_size=len(lengths)),
        )
    )
)
def test_shares_are_met_and_no_row_stands_twice(case):
    lengths, weights = case
    try:
        rows = mixed(OF_MIXTURE, lengths, weights, 0)
    except UserError:  # a share of less than half a row
        assert min(lengths) * min(weights) < max(weights)
        return
    total = min(n * sum(weights) / w for n, w in zip(lengths, weights, strict=True))
    for own, length, weight in zip(rows, lengths, weights, strict=True):
        assert abs(len(own) - total * weight / sum(weights)) <= 0.5 + 1e-9
        assert listed([own])[0] == list(range(len(own)))
        assert len(own) <= length


def test_shares_of_each_set_are_picked_by_the_seed():
    rows = mixed(OF_SET, LENGTHS, [0.5, 1, 0.25], 3)
    assert [len(own) for own in rows] == [3, 20, 1]  # rounded down, as alignment-handbook does
    for own, length in zip(rows, LENGTHS, strict=True):
        assert set(own.tolist()) <= set(range(length))
        assert len(set(own.tolist())) == len(own)
    assert listed(rows) == listed(mixed(OF_SET, LENGTHS, [0.5, 1, 0.25], 3))
    found = {str(listed(mixed(OF_SET, [20], [0.5], seed))) for seed in range(5)}
    assert len(found) == 5
    both = mixed(OF_SET, [20, 20], [0.5, 0.5], 0)
    assert listed(both)[0] != listed(both)[1]  # two sets of one length are picked apart


@pytest.mark.parametrize(("strategy", "stop"), [(UNDER, "first"), (OVER, "all")])
def test_sets_in_turn_are_those_of_the_library(strategy, stop):
    theirs = datasets.interleave_datasets(numbered(LENGTHS), stopping_strategy=f"{stop}_exhausted")
    assert listed(mixed(strategy, LENGTHS, None, 0)) == taken(theirs, 3)


@pytest.mark.parametrize(("over", "stop"), [(False, "first"), (True, "all")])
@pytest.mark.parametrize("seed", range(3))
def test_draws_are_those_of_the_library(over, stop, seed):
    shares = [0.5, 0.3, 0.2]
    theirs = datasets.interleave_datasets(
        numbered(LENGTHS), shares, seed=seed, stopping_strategy=f"{stop}_exhausted"
    )
    counts = drawn(LENGTHS, np.array(shares), over, np.random.default_rng(seed))
    assert counts.tolist() == [len(rows) for rows in taken(theirs, 3)]
    cycled = [np.sort(np.arange(n) % length) for n, length in zip(counts, LENGTHS, strict=True)]
    assert listed(cycled) == taken(theirs, 3)


def test_draws_follow_the_weights_and_end_with_the_first_or_the_last_set():
    under = [len(own) for own in mixed(UNDER, [900, 900], [2, 1], 0)]
    assert under[0] == 900
    assert abs(under[1] - 450) < 5 * (900 * 3 / 4) ** 0.5  # negative binomial, 5 deviations
    over = mixed(OVER, [30, 900], [1, 1], 0)
    assert len(over[1]) == 900
    assert set(over[0].tolist()) == set(range(30))  # each about thirty times
    assert max(np.bincount(over[0])) - min(np.bincount(over[0])) <= 1
    assert listed(over) == listed(mixed(OVER, [30, 900], [10, 10], 0))  # shares alone count
    assert listed(over) != listed(mixed(OVER, [30, 900], [1, 1], 1))


def test_without_weights_all_rows_are_there_once():
    assert listed(mixed(CONCAT, LENGTHS, None, 0)) == [list(range(n)) for n in LENGTHS]


def test_what_leaves_nothing_or_never_ends_is_a_line():
    with pytest.raises(UserError, match="no row of data set 2 is left"):
        mixed(OF_SET, [9, 9], [1, 0.1], 0)
    with pytest.raises(UserError, match=r"interleave_over: about 9,000,\d+ draws of 18 rows"):
        mixed(OVER, [9, 9], [1, 1e-6], 0)
