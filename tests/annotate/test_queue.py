"""Who sees what next: balanced, never twice, never two at once, the same after a restart."""

import numpy as np
import pytest

from diffdpo.annotate.queue import LEASE_SECONDS, item
from diffdpo.annotate.votes import Tally
from tests.annotate.made import queue, vote


def work(line, annotator, times):
    """Take and vote, one pair at a time; returns the items."""
    seen = []
    for _ in range(times):
        found = line.take(annotator, 1)
        if not found:
            break
        seen.append(found[0])
        line.tally.add(vote(found[0].pair, annotator=annotator, kind=found[0].kind))
        line.release(annotator, found[0].pair, found[0].visit)
    return seen


def test_all_pairs_are_seen_once_in_an_order_of_ones_own():
    line = queue(40)
    orders = {name: [one.pair for one in work(line, name, 99)] for name in ("ann", "bob")}
    assert sorted(orders["ann"]) == sorted(orders["bob"]) == list(range(40))
    assert orders["ann"] != orders["bob"]
    assert orders["ann"] == [one.pair for one in work(queue(40), "ann", 99)]
    assert orders["ann"] != [one.pair for one in work(queue(40, seed=1), "ann", 99)]


def test_the_order_does_not_depend_on_how_many_pairs_there_are():
    few = [one.pair for one in work(queue(30), "ann", 99)]
    assert [p for p in (one.pair for one in work(queue(60), "ann", 99)) if p < 30] == few


def test_pairs_with_the_fewest_votes_come_first_and_full_ones_not_at_all():
    line = queue(10, [vote(pair, annotator=name) for name in "ab" for pair in range(5)],
                 votes_per_pair=2)  # fmt: skip
    assert {one.pair for one in work(line, "ann", 99)} == {5, 6, 7, 8, 9}
    line = queue(10, [vote(pair, annotator="a") for pair in range(5)], votes_per_pair=2)
    seen = [one.pair for one in work(line, "ann", 99)]
    assert set(seen[:5]) == {5, 6, 7, 8, 9}
    assert set(seen) == set(range(10))


def test_two_people_never_have_the_same_pair_and_a_lease_ends():
    now = [0.0]
    line = queue(4, clock=lambda: now[0])
    ann, bob = line.take("ann", 3), line.take("bob", 3)
    assert len(ann) == 3
    assert len(bob) == 1
    assert not {one.pair for one in ann} & {one.pair for one in bob}
    assert line.take("cy", 1) == []
    assert line.take("ann", 3) == ann  # a reload
    now[0] += LEASE_SECONDS - 1
    line.take("ann", 3)  # still at it
    now[0] += 2
    assert {one.pair for one in line.take("cy", 3)} == {one.pair for one in bob}
    now[0] += LEASE_SECONDS
    assert len(line.take("cy", 9)) == 4


def test_sides_are_a_coin_of_seed_pair_and_annotator_and_turn_at_the_second_visit():
    lefts = np.array([item(0, pair, "ann", 0).left == "first" for pair in range(400)])
    assert 160 < lefts.sum() < 240
    for other in ({"seed": 1}, {"annotator": "bob"}):
        given = {"seed": 0, "annotator": "ann", **other}
        others = [item(pair=p, visit=0, **given).left == "first" for p in range(400)]
        assert 160 < (lefts == others).sum() < 240
    again = [item(0, pair, "ann", 1).left == "first" for pair in range(400)]
    assert (lefts != again).all()
    assert item(0, 7, "ann", 0) == item(0, 7, "ann", 0)


def test_a_share_of_pairs_comes_again_mirrored_later_and_once():
    line = queue(400, repeat_share=0.1)
    seen = work(line, "ann", 1000)
    repeats = [(place, one) for place, one in enumerate(seen) if one.visit]
    assert 20 < len(repeats) < 65
    assert len({one.pair for _, one in repeats}) == len(repeats)
    first = {one.pair: place for place, one in enumerate(seen) if not one.visit}
    assert len(first) == 400
    for place, one in repeats:
        assert place - first[one.pair] >= 10
        assert one.left != item(0, one.pair, "ann", 0).left
    assert not [one for one in work(queue(400), "ann", 999) if one.visit]


def test_a_priority_comes_after_the_number_of_votes_or_before_it():
    line = queue(6, [vote(5, annotator="bob")])
    line.priority = lambda: np.array([0, 0, 0, 2, 1, 9])
    assert [one.pair for one in work(line, "ann", 2)] == [3, 4]
    line = queue(6, [vote(5, annotator="bob")], priority_first=True)
    line.priority = lambda: np.array([0, 0, 0, 2, 1, 9])
    assert [one.pair for one in work(line, "ann", 3)] == [5, 3, 4]


@pytest.mark.parametrize(
    ("votes", "given", "reason"),
    [
        ([], (9, 0), "no such pair"),
        ([], (0, 2), "no such pair"),
        ([], (-1, 0), "no such pair"),
        ([vote(0)], (0, 0), "is there already"),
        ([vote(0, "skip")], (0, 0), "is there already"),
        ([], (0, 1), "not been shown"),
        ([vote(0), vote(0, kind="repeat")], (0, 1), "is there already"),
        ([vote(0, annotator=name) for name in "abc"], (0, 0), "went to somebody else"),
        ([vote(0)], (0, 1), ""),
        ([], (0, 0), ""),
    ],
)
def test_a_vote_is_refused_for_a_reason(votes, given, reason):
    why = queue(3, votes).refusal("ann", *given)
    assert reason in why
    assert bool(reason) == bool(why)


def test_a_vote_after_a_restart_counts_unless_somebody_else_has_the_pair():
    line = queue(1)
    assert not line.refusal("ann", 0, 0)
    line.take("bob", 1)
    assert "somebody else" in line.refusal("ann", 0, 0)
    assert not line.refusal("bob", 0, 0)


def test_a_restart_goes_on_where_it_was():
    line = queue(50, repeat_share=0.2)
    seen = work(line, "ann", 30)
    votes = [vote(one.pair, kind=one.kind) for one in seen]
    again = queue(50, votes, repeat_share=0.2)
    assert isinstance(again.tally, Tally)
    assert again.take("ann", 3) == line.take("ann", 3)
