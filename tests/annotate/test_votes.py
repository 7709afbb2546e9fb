"""What was chosen is on the disk, and what the file amounts to is one rule."""

import errno
import json
import os

import pytest

from diffdpo.annotate.votes import UNDO, Tally, VoteFile, read_vote
from diffdpo.errors import UserError
from tests.annotate.made import vote


def written(folder, votes):
    file = VoteFile(folder)
    file.open()
    for one in votes:
        file.append(one)
    file.close()
    return file


def test_a_line_is_read_back_as_it_was_and_names_every_field(tmp_path):
    one = vote(3, "both_bad", prompt="قطة\n\u2028 <b>", kind="repeat", left="second")
    written(tmp_path, [one])
    (line,) = (tmp_path / "votes.jsonl").read_text().split("\n")[:-1]
    assert read_vote(line) == one
    assert set(json.loads(line)) == {
        "pair", "prompt", "first", "second", "left", "choice", "annotator", "started", "ms", "kind",
        "version",
    }  # fmt: skip


def test_every_line_is_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_size), real(fd)))
    file = VoteFile(tmp_path)
    file.open()
    for number in range(3):
        file.append(vote(number))
        assert synced[-1] == (tmp_path / "votes.jsonl").stat().st_size


@pytest.mark.parametrize("torn", ['{"pair": 1, "prompt": "p', vote(9).line[:-1]])
def test_a_last_line_that_was_cut_short_is_said_and_the_file_goes_on(tmp_path, torn):
    path = tmp_path / "votes.jsonl"
    path.write_text(vote(0).line + vote(1).line + torn)
    file = VoteFile(tmp_path)
    assert [one.pair for one in file.read()] == [0, 1]
    (note,) = file.notes
    assert f"a last line of {len(torn)} bytes was cut short" in note
    file.open()
    file.append(vote(2))
    assert [one.pair for one in VoteFile(tmp_path).read()] == [0, 1, 2]


def test_few_broken_lines_are_left_out_and_many_refused(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_text(vote(0).line + "junk\n" + vote(1).line)
    file = VoteFile(tmp_path)
    assert [one.pair for one in file.read()] == [0, 1]
    assert file.notes[0].startswith("votes.jsonl: line 2 is no vote")
    path.write_text(vote(0).line + "junk\n[]\n")
    with pytest.raises(UserError, match="2 of 3 lines are no votes: line 2"):
        file.read()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"choice": "left"}, "choice 'left' is unknown"),
        ({"pair": "1"}, "pair is '1'"),
        ({"ms": True}, "ms is True"),
        ({"version": 2}, "version 2 is unknown"),
        ({"pair": -1}, "pair is -1"),
        ({"ms": -1}, "ms is -1"),
        ({"more": 1}, "not the fields of a vote"),
    ],
)
def test_a_line_that_is_no_vote_is_told_why(change, reason):
    with pytest.raises(ValueError, match=reason):
        read_vote(json.dumps({**json.loads(vote(0).line), **change}))


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    file = written(tmp_path, [vote(0)])
    file.open()
    before = file.path.read_bytes()

    pwrite = os.pwrite

    def half(descriptor, data, place):
        return pwrite(descriptor, data[: len(data) // 2], place)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError) as error:  # noqa: PT011
        file.append(vote(1))
    assert error.value.errno == errno.ENOSPC
    assert file.path.read_bytes() == before


def test_taking_back_is_a_line_and_the_replay_knows_no_such_vote():
    lines = [vote(0), vote(1, "tie"), vote(1, UNDO), vote(0, "second", "bob")]
    tally = Tally(3, lines)
    assert tally.count_P.tolist() == [2, 0, 0]
    assert [(one.pair, one.annotator) for one in tally.votes] == [(0, "ann"), (0, "bob")]
    assert tally.seen == {"ann": {0}, "bob": {0}}
    assert tally.last("ann") == vote(0)
    tally.add(vote(0, UNDO))
    tally.add(vote(0, UNDO))  # nothing left to take back: nothing happens
    assert tally.count_P.tolist() == [1, 0, 0]
    assert tally.last("ann") is None


def test_a_repeat_and_a_skip_are_no_votes():
    tally = Tally(2, [vote(0), vote(0, "second", kind="repeat"), vote(1, "skip")])
    assert tally.count_P.tolist() == [1, 0]
    assert tally.seen["ann"] == {0, 1}


def test_agreement_so_far_is_the_mean_share_of_like_votes_over_shared_pairs():
    lines = [vote(0, "first", name) for name in "abc"] + [vote(1, "tie", "a")]
    assert Tally(3, lines[:1]).agreement() is None
    lines += [vote(1, "first", "b"), vote(1, "first", "c"), vote(2, "skip", "a")]
    tally = Tally(3, lines)
    # Pair 0: all alike. Pair 1: of the three pairs of votes one is alike.
    assert tally.agreement() == {"share": pytest.approx((1 + 1 / 3) / 2), "pairs": 2}
    tally.add(vote(1, UNDO, "a"))
    assert tally.agreement() == {"share": 1.0, "pairs": 2}
