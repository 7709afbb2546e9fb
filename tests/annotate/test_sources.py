"""What the command takes for pairs, and how it tells pictures, clips, texts and runs apart."""

import io
import json

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from diffdpo.annotate.pairs import PicturePairs, TextPairs
from diffdpo.annotate.runs import RunPairs
from diffdpo.annotate.sources import open_pairs
from diffdpo.annotate.votes import Tally
from diffdpo.commands.annotate import priority
from diffdpo.data.image_formats import GENERAL
from diffdpo.errors import UserError
from tests.annotate.made import data_set, rows, settings, vote
from tests.annotate.samples import sample_folder
from tests.factory import encoded, picture


def jsonl(path, given):
    path.write_text("\n".join(map(json.dumps, given)) + "\n")
    return path


def turns(*pairs):
    return [{"role": role, "content": text} for role, text in pairs]


@pytest.mark.parametrize("name", GENERAL)
def test_every_image_format_is_shown_with_its_items_in_their_order(tmp_path, name):
    format = GENERAL[name]
    both = [encoded(picture(side)) for side in (0, 1)]
    for side, content in enumerate(both):
        (tmp_path / f"{side}.png").write_bytes(content)
    files = "file_name" in format.first
    cells = ["0.png", "1.png"] if files else [[one, one] for one in both]
    cells = cells if files or "video" in format.first else both
    row = {format.first: cells[0], format.second: cells[1], format.prompt: "p"}
    row |= dict.fromkeys(format.labels, 0.0)
    Dataset.from_list([row, row]).to_parquet(tmp_path / "train-0.parquet")
    pairs = open_pairs(settings(tmp_path))
    assert isinstance(pairs, PicturePairs)
    assert (len(pairs), pairs.prompt(1)) == (2, "p")
    assert pairs.show(0) == [{"kind": "image"}] * 2
    for side in (0, 1):
        shown = Image.open(io.BytesIO(pairs.media(0, side).body)).convert("RGB")
        wanted = np.asarray(picture(side), dtype=float)
        assert np.abs(np.asarray(shown, dtype=float) - wanted).mean() < 12
    written = pairs.row(0, 0.5, 1)
    stored = [both[side] for side in (0, 1)] if files or cells is both else cells
    assert [written[column] for column in list(written)[:2]] == stored
    assert len(set(pairs.names(0))) == 2
    assert pairs.names(0) == pairs.names(1)  # a picture in two rows is one item


def test_each_two_pictures_of_a_ranking_are_a_pair_and_one_picture_is_one_item(tmp_path):
    pictures = [encoded(picture(number)) for number in range(3)]
    given = [{"prompt": "p", "generations": pictures, "ranking": [1, 2, 2]},
             {"prompt": "q", "generations": pictures[:2], "ranking": [2, 1]}]  # fmt: skip
    pairs = open_pairs(settings(data_set(tmp_path, given)))
    assert isinstance(pairs, PicturePairs)
    assert [pairs.prompt(pair) for pair in range(len(pairs))] == ["p", "p", "p", "q"]
    items = [pairs.names(pair) for pair in range(len(pairs))]
    assert len({item for both in items for item in both}) == 3
    shown = Image.open(io.BytesIO(pairs.media(3, 1).body))
    side = 1 if pairs.names(3)[1] == pairs.names(0)[1] else 0
    assert shown.tobytes() == picture(side).tobytes()


def test_pairs_without_labels_and_ties_are_shown_as_well(tmp_path):
    given = rows(["a", "b", "c"] * 10)
    given[0] |= {"label_0": 0.5, "label_1": 0.5}
    given[1] |= {"label_0": -1.0, "label_1": -1.0}
    assert len(open_pairs(settings(data_set(tmp_path, given)))) == 30


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "why?", "chosen": "so", "rejected": "no"},
        {"prompt": turns(("user", "why?")), "chosen": turns(("assistant", "so")),
         "rejected": turns(("assistant", "no"))},
        {"chosen": turns(("user", "why?"), ("assistant", "so")),
         "rejected": turns(("user", "why?"), ("assistant", "no"))},
        {"instruction": "why?", "chosen": "so", "rejected": "no"},
    ],
)  # fmt: skip
def test_texts_and_conversations_are_flat(tmp_path, row):
    pairs = open_pairs(settings(jsonl(tmp_path / "t.jsonl", [row] * 2)))
    assert isinstance(pairs, TextPairs)
    assert pairs.prompt(0) == "why?"
    assert pairs.show(0) == [{"kind": "text", "text": "so"}, {"kind": "text", "text": "no"}]


def test_several_turns_say_whose_they_are(tmp_path):
    prompt = turns(("system", "be brief"), ("user", "why?"))
    row = {"prompt": prompt, "chosen": turns(("assistant", "so")),
           "rejected": turns(("assistant", "no"))}  # fmt: skip
    pairs = open_pairs(settings(jsonl(tmp_path / "t.jsonl", [row])))
    assert pairs.prompt(0) == "system:\nbe brief\n\nuser:\nwhy?"


def test_names_of_picture_files_are_pictures_and_other_words_texts(tmp_path):
    for side in (0, 1):
        (tmp_path / f"{side}.png").write_bytes(encoded(picture(side)))
    row = {"prompt": "p", "chosen": "0.png", "rejected": "1.png"}
    assert isinstance(open_pairs(settings(jsonl(tmp_path / "t.jsonl", [row]))), PicturePairs)
    row |= {"chosen": "nought.png", "rejected": "one.png"}
    assert isinstance(open_pairs(settings(jsonl(tmp_path / "t.jsonl", [row]))), TextPairs)


def test_columns_of_ones_own_are_named(tmp_path):
    given = [{"winner": one["jpg_0"], "loser": one["jpg_1"], "words": "p"} for one in rows()]
    named = {"chosen_column": "winner", "rejected_column": "loser", "prompt_column": "words"}
    pairs = open_pairs(settings(data_set(tmp_path / "a", given), **named))
    assert isinstance(pairs, PicturePairs)
    texts = jsonl(tmp_path / "t.jsonl", [{"winner": "so", "loser": "no", "words": "p"}])
    assert isinstance(open_pairs(settings(texts, **named)), TextPairs)


def test_models_that_the_data_name_are_the_items(tmp_path):
    given = [{**one, "model_0": "x", "model_1": "y"} for one in rows()]
    assert open_pairs(settings(data_set(tmp_path, given))).names(2) == ("x", "y")


def test_few_broken_texts_are_left_out_and_said(tmp_path):
    good, bad = {"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "a"}
    pairs = open_pairs(settings(jsonl(tmp_path / "t.jsonl", [good] * 30 + [bad])))
    assert (len(pairs), len(pairs.skipped)) == (30, 1)
    assert "row 30: rejected is missing" in pairs.skipped[0]
    with pytest.raises(UserError, match="3 of 4 rows of pairs cannot be used"):
        open_pairs(settings(jsonl(tmp_path / "u.jsonl", [good] + [bad] * 3)))


def test_runs_meet_on_the_prompts_and_seeds_that_both_have(tmp_path):
    one = sample_folder(tmp_path / "one", ["reference", "base", "a"])
    other = sample_folder(tmp_path / "other", ["reference", "base", "a"], prompts=2, shift=50)
    pairs = open_pairs(settings(one, other))
    assert isinstance(pairs, RunPairs)
    # The base is the same in both; "a" is another in each; the references were not named.
    assert pairs.runs == ("base", "a (one)", "a (other)")
    kinds = [pairs.names(pair) for pair in range(len(pairs))]
    assert kinds.count(("base", "a (one)")) == 6
    assert kinds.count(("base", "a (other)")) == 4
    assert kinds.count(("a (one)", "a (other)")) == 4


def test_one_evaluation_brings_its_reference(tmp_path):
    pairs = open_pairs(settings(sample_folder(tmp_path, ["reference", "a"])))
    assert pairs.runs == ("reference", "a")


def test_equal_pictures_of_two_runs_are_left_out(tmp_path):
    folder = sample_folder(tmp_path, ["a", "b"])
    same = (folder / "samples" / "a" / "00001-0.png").read_bytes()
    (folder / "samples" / "b" / "00001-0.png").write_bytes(same)
    pairs = open_pairs(settings(folder))
    assert (len(pairs), pairs.skipped) == (5, ["1 pairs of equal pictures are left out"])


def test_runs_at_other_seeds_or_of_equal_pictures_cannot_be_compared(tmp_path):
    c, d = (sample_folder(tmp_path / name, [name]) for name in "cd")
    file = d / "samples.jsonl"
    file.write_text(file.read_text().replace('"seed": 10', '"seed": 77'))
    with pytest.raises(UserError, match="nothing to choose; they share no prompt"):
        open_pairs(settings(c, d))
    e = sample_folder(tmp_path / "e", ["e"])  # the same pictures as c's
    with pytest.raises(UserError, match="nothing to choose; all their pictures are equal"):
        open_pairs(settings(c, e))


def test_a_common_reference_is_one_run(tmp_path):
    one = sample_folder(tmp_path / "one", ["base", "a"])
    other = sample_folder(tmp_path / "other", ["base", "b"], shift=50)
    pairs = open_pairs(settings(one, other))
    assert pairs.runs == ("base", "a", "b")
    assert len(pairs) == 3 * 6


def test_a_list_of_samples_that_is_none_is_told_by_its_line(tmp_path):
    folder = sample_folder(tmp_path / "one", ["base", "a"])
    file = folder / "samples.jsonl"
    file.write_text(file.read_text() + '{"policy": "a"}\n')
    with pytest.raises(UserError, match=r"samples\.jsonl: line 13 names no picture"):
        open_pairs(settings(folder))
    file.write_text('{"policy": "a", "prompt": "p", "seed": 1, "file": "../../x.png"}\n' * 2)
    with pytest.raises(UserError, match="nothing to choose"):
        open_pairs(settings(folder))


def test_pairs_are_told_from_others_by_their_content(tmp_path):
    given = rows()
    one = open_pairs(settings(data_set(tmp_path / "a", given))).fingerprint
    assert open_pairs(settings(data_set(tmp_path / "b", given))).fingerprint == one
    given[0] |= {"caption": "another"}
    assert open_pairs(settings(data_set(tmp_path / "c", given))).fingerprint != one


def test_pairs_on_which_scores_disagree_come_first(tmp_path):
    given = rows(["p"] * 4)
    for number, one in enumerate(given):
        one |= {"x_0": 1.0, "x_1": 0.0, "y_0": float(number == 2), "y_1": float(number != 2)}
        one |= {"seed_0": 1, "seed_1": 2}
    pairs = open_pairs(settings(data_set(tmp_path / "a", given)))
    assert set(pairs.scores) == {"x", "y"}
    first = priority("disagreement", pairs, Tally(4))
    assert first is not None
    assert first().tolist() == [1, 1, 0, 1]
    plain = open_pairs(settings(data_set(tmp_path / "b")))
    with pytest.raises(UserError, match="of 0 scores; two or more are needed"):
        priority("disagreement", plain, Tally(6))
    with pytest.raises(UserError, match="is for the order of three runs or more"):
        priority("gain", plain, Tally(6))


def test_gain_puts_the_runs_first_of_which_least_is_known(tmp_path):
    pairs = open_pairs(settings(sample_folder(tmp_path, ["a", "b", "c"], prompts=2, times=1)))
    tally = Tally(len(pairs))
    gain = priority("gain", pairs, tally)
    assert gain is not None
    assert len(set(gain().tolist())) == 1
    for pair in range(2):  # both votes between a and b
        tally.add(vote(pair, ("first", "second")[pair], first="a", second="b"))
    known = [pairs.names(pair) == ("a", "b") for pair in range(len(pairs))]
    gains = gain()
    assert gains[known].max() < gains[np.logical_not(known)].min()
