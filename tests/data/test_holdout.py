"""Pairs that are kept out of training stay together with what they share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffdpo.data.holdout import groups, held_out
from diffdpo.errors import UserError

NAMES = st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=3), min_size=1, max_size=25)


@given(NAMES)
def test_pairs_are_in_one_group_exactly_where_a_chain_of_shared_names_links_them(names):
    linked = np.eye(len(names), dtype=bool)
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            linked[i, j] |= bool(set(one) & set(other))
    for _ in names:  # the transitive closure, by squaring
        linked = linked @ linked
    group = groups(names)
    assert (linked == (group[:, None] == group[None, :])).all()
    assert sorted(set(group.tolist())) == list(range(group.max() + 1))


@given(NAMES, st.integers(1, 30), st.integers(0, 5))
def test_whole_groups_are_held_out_and_never_more_pairs_than_asked_for(names, wanted, seed):
    group = groups(names)
    try:
        out = held_out(group, wanted, seed)
    except UserError:
        assert wanted >= len(names) or np.bincount(group).min() > wanted
        return
    assert 1 <= out.sum() <= wanted
    assert not set(group[out].tolist()) & set(group[~out].tolist())
    # No further group would have fitted.
    left = wanted - out.sum()
    assert all(size > left for size in np.bincount(group)[sorted(set(group[~out].tolist()))])
    assert (out == held_out(group, wanted, seed)).all()


def test_a_share_is_of_the_pairs_and_the_seed_chooses():
    group = np.arange(200)
    assert held_out(group, 0.1, 0).sum() == 20
    assert held_out(group, 0.001, 0).sum() == 1
    assert (held_out(group, 0.1, 0) != held_out(group, 0.1, 1)).any()


@pytest.mark.parametrize(
    ("sizes", "wanted", "line"),
    [
        ([1, 1], 2, "there are 2 pairs; some must be left to train on"),
        ([1, 1], 50, "there are 2 pairs"),
        ([3, 3], 2, "the smallest group has 3"),
        ([10], 0.5, "the smallest group has 10"),
    ],
)
def test_what_cannot_be_divided_is_refused(sizes, wanted, line):
    group = np.repeat(np.arange(len(sizes)), sizes)
    with pytest.raises(UserError, match=line):
        held_out(group, wanted, 0)
