"""The record of what a run was trained on tells known prompts from new ones."""

import numpy as np
import pytest

from diffdpo.engine.trained_on import FILE, Overlap, digests, keep_record, known, overlap
from diffdpo.errors import UserError

SEEN = ["a red cat", "two dogs", "", "Ünder\u00a0 the sea"]


def test_prompts_of_the_run_are_recognised(tmp_path):
    keep_record(tmp_path, prompts=SEEN * 3, completions=["a", "b"])
    assert overlap(tmp_path, SEEN * 2) == Overlap(4, 4)
    assert known(tmp_path, "completions", ["B", "c"]).tolist() == [True, False]
    assert overlap(tmp_path, ["A  Red cat\n", "a red car", "two dogs"]) == Overlap(3, 2)
    assert overlap(tmp_path, ["a red car", "a red car"]) == Overlap(1, 0)
    assert (tmp_path / FILE).stat().st_size < 200


def test_without_a_record_nothing_is_claimed(tmp_path):
    assert overlap(tmp_path, SEEN) == Overlap(4, None)
    assert known(tmp_path, "completions", ["a"]) is None


def test_in_words():
    assert str(Overlap(24, 0)) == "24 held-out prompts"
    assert str(Overlap(24, 12)) == "24 prompts, 12 of them in the set it was trained on"
    assert str(Overlap(1, None)) == "1 prompt, not known whether trained on"
    assert str(Overlap(2, 0, "pair")) == "2 held-out pairs"
    assert Overlap(1, None).as_dict() == {"prompts": 1, "in_training_set": None}


def test_many_prompts_have_as_many_digests():
    many = digests(f"prompt {number}" for number in range(200_000))
    assert len(np.unique(many)) == 200_000
    assert many.nbytes == 8 * 200_000


def test_a_lone_surrogate_has_a_digest():
    assert len(digests(["\ud800"])) == 1


def test_a_damaged_record_is_named(tmp_path):
    keep_record(tmp_path, prompts=SEEN)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:30])
    with pytest.raises(UserError, match=rf"{FILE}: damaged"):
        overlap(tmp_path, SEEN)


def test_a_record_without_what_is_asked_for_is_damaged(tmp_path):
    keep_record(tmp_path, prompts=SEEN)
    with pytest.raises(UserError, match="damaged"):
        known(tmp_path, "completions", SEEN)
