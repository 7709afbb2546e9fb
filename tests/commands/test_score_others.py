"""Rewards judge what is there: what they are told, by several processes, and mistakes."""

import json

import pytest

from diffdpo import REWARDS
from tests.commands.test_score import folder_of_pictures, score
from tests.factory import make_pairs, picture, read_jsonl
from tests.runs import only_error


def test_captions_of_a_folder_are_texts_of_its_pictures(tmp_path, capsys):
    folder = folder_of_pictures(tmp_path / "pictures")
    picture(3).save(folder / "2.tif")
    table, flags = folder / "metadata.jsonl", ["--images", folder, "--reward", "colourfulness"]

    def write(*rows):
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write({"file_name": "0.png", "text": ["one"]}, {"file_name": "./2.tif", "text": ["two"]})
    rows, _ = score(tmp_path, *flags)
    told = [(row["file"], row["prompt"]) for row in rows]
    assert told == [("0.png", "one"), ("2.tif", ""), ("b/1.png", "")]
    assert "metadata.jsonl: 1 names of no picture (./2.tif)" in capsys.readouterr().out
    write({"file_name": "0.png", "text": "a"}, {"file_name": "0.png", "text": "b"})
    score(tmp_path, *flags, code=2)
    assert "several captions for 0.png; keep one" in capsys.readouterr().err
    write({"file_name": "0.png", "text": 7})
    score(tmp_path, *flags, code=2)
    assert "column text holds int in row 0 (7); a prompt is text" in capsys.readouterr().err


def test_a_reward_that_reads_prompts_says_so(tmp_path, monkeypatch, capsys):
    from diffdpo.metrics.reward import Reward

    reader = Reward("reader", lambda pictures, prompts: [len(p) for p in prompts], {"rule": "1"})
    monkeypatch.setitem(REWARDS, "reader", lambda path=None: reader)
    folder = folder_of_pictures(tmp_path / "pictures")
    (folder / "0.txt").write_text("nought")
    score(tmp_path, "--images", folder, "--reward", "style", "reader", code=2)
    line = capsys.readouterr().err
    assert "--reward reader: reads prompts, and 1 of 2 pictures have none; write captions" in line
    score(tmp_path, "--images", folder, "--reward", "style", "colourfulness")


@pytest.mark.slow
def test_two_processes_share_the_work_and_write_the_same(tmp_path):
    from tests.conftest import run, two_processes

    data = make_pairs(tmp_path / "data", 40)
    flags = ["--dataset_name", data, "--reward", "style", "--reward_batch_size", 1]
    places = ["--output_dir", tmp_path / "two", "--precompute_dir", tmp_path / "elsewhere"]
    done = run(two_processes("score", *flags, *places))
    assert done.returncode == 0, done.stderr
    assert read_jsonl(tmp_path / "two" / "scores.jsonl") == score(tmp_path, *flags)[0]


MISTAKES = {
    "nothing to judge": (["--reward", "style"], "either --dataset_name or --images"),
    "no judge": (["--images", "."], "--reward is needed"),
    "both kinds": (
        ["--images", ".", "--reward", "style", "sentiment"],
        "some judge pictures and some texts",
    ),
    "a judge of texts": (["--images", ".", "--reward", "sentiment"], "some judge pictures"),
    "no such judge": (["--images", ".", "--reward", "styl"], "did you mean style?"),
    "prompts beside a data set": (
        ["--dataset_name", ".", "--prompts", ".", "--reward", "style"],
        "--prompts names those of --images",
    ),
    "pairs of single pictures": (
        ["--images", ".", "--write_pairs", "--reward", "style"],
        "--write_pairs writes pairs of pictures",
    ),
    "an empty folder": (["--images", "empty", "--reward", "style"], "no .png, .jpg"),
    "other captions": (
        ["--images", "pictures", "--prompts", "three.txt", "--reward", "style"],
        "3 prompts for 2 pictures",
    ),
    "no folder": (["--images", "none", "--reward", "style"], "--images none: no such folder"),
}


@pytest.mark.parametrize(("words", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    folder_of_pictures(tmp_path / "pictures")
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    score(tmp_path, *words, code=2)
    assert line in only_error(capsys)
