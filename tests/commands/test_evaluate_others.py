"""Evaluations of several policies: whose reward and votes count, labels, mistakes."""

import json

import pytest

from diffdpo.annotate.votes import Vote
from diffdpo.cli import run_command
from diffdpo.engine.labels import labels
from tests.commands.test_evaluate_many import PROMPTS, REWARDS, command, policies, result
from tests.runs import only_error


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return policies(tmp_path_factory.mktemp("many"))


def test_a_reward_that_made_the_pairs_is_no_headline_unless_asked(models, pairs, place, capsys):
    own = place / "own_pairs"
    own.mkdir()
    (own / "train-00000.parquet").write_bytes((pairs / "train-00000.parquet").read_bytes())
    (own / "make_pairs.json").write_text(json.dumps({"rewards": {"colourfulness": {"rule": "x"}}}))
    run = result(place / "trained", 0.2, dataset_name=own)

    def judged(*more, code=0):
        base = ["--policy", run, "--prompts", place / "list.txt", "--num_prompts", 1]
        base += ["--num_inference_steps", 1]
        assert run_command("evaluate", command(models(), place / "held", *base, *more)) == code
        return capsys.readouterr()

    judged()
    content = json.loads((place / "held" / "evaluation.json").read_text())
    assert content["reward"] == "jpeg_incompressibility"
    assert list(content["rewards"]) == REWARDS
    assert content["judges"]["colourfulness"]["made the training pairs"] is True
    assert "colourfulness (trained on)" in (place / "held" / "report.html").read_text()
    error = judged("--reward", "colourfulness", code=2).err
    assert "--reward colourfulness: made the training pairs" in error
    assert "--headline colourfulness" in error
    shown = judged("--headline", "colourfulness").out
    assert "by colourfulness (trained on)" in shown.splitlines()[-2]


def test_votes_of_people_stand_beside_the_rewards(models, place, capsys):
    votes = place / "votes.jsonl"
    choices = ["first"] * 6 + ["second"] * 2 + ["tie", "skip"]
    lines = [
        Vote(number, PROMPTS[number % 4], "weak", "strong", "first", choice, f"p{number % 2}",
             "2026-01-01T00:00:00Z", 900).line
        for number, choice in enumerate(choices)
    ]  # fmt: skip
    votes.write_text("".join(lines), encoding="utf-8")
    base = ["--policy", place / "weak", place / "strong", "--prompts", place / "list.txt"]
    base += ["--num_prompts", 1, "--num_inference_steps", 1, "--votes", votes]
    assert run_command("evaluate", command(models(), place / "voted", *base)) == 0
    content = json.loads((place / "voted" / "evaluation.json").read_text())
    (row,) = content["votes"]["table"]
    assert (row["policy"], row["against"]) == ("weak", "strong")
    assert (row["win_rate"]["value"], row["win_rate"]["n"]) == (6.5 / 9, 9)
    assert "weak over strong: 72.2 %" in capsys.readouterr().out
    assert "weak over strong: 72.2 %" in (place / "voted" / "report.html").read_text()
    other = command(models(), place / "voted", *base, "--policy", place / "weak")
    assert run_command("evaluate", other) == 2
    assert "no vote between two of reference, weak" in capsys.readouterr().err


def test_labels_are_those_of_the_folders_and_differ(tmp_path):
    made = [tmp_path / "a" / "train", tmp_path / "b" / "train", tmp_path / "reference"]
    made += [tmp_path / "Ä b*c", tmp_path / "a" / "Train", tmp_path / "x" / "checkpoint-20"]
    for folder in made:
        folder.mkdir(parents=True)
    (made[-1] / "trainable.safetensors").write_bytes(b"")
    found = labels([str(folder) for folder in made])
    base = tmp_path.name
    assert found[:2] == ["train", "b-train"]
    assert found[2] == f"{base}-reference"[-48:]
    assert found[3:] == ["Ä-b-c", "a-Train", "x-checkpoint-20"]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--policy", "weak", "weak"], "--policy weak: is named twice"),
        (["--control", "sure"], "--control sure: was not trained with --random_labels"),
        (["--policy", "weak", "other"], "--policy other: was trained from a/model, not from"),
        (["--headline", "style"], "--headline 'style' is unknown; known: colourfulness"),
        (["--export", "coco"], "--export 'coco' is unknown; known: geneval, hpsv2"),
        (["--best_of", "1"], "--best_of must be at least 2"),
        (["--votes", "none.jsonl"], "--votes none.jsonl: no such file"),
        (["--prompts", "none.txt"], "--prompts: data set none.txt: no such file or folder"),
        (["--diversity_model", "./no"], "--diversity_model ./no: no such folder"),
        (["--policy", "weak", "nowhere"], "--policy nowhere: no such folder"),
    ],
)
def test_mistakes_are_one_line(models, place, monkeypatch, capsys, more, line):
    monkeypatch.chdir(place)
    if not (place / "sure").exists():
        result(place / "sure", 0.1, random_labels=False)
        result(place / "other", 0.1, pretrained_model_name_or_path="a/model")
    base = [] if "--policy" in more else ["--policy", "weak"]
    base += [] if "--prompts" in more else ["--prompts", "list.txt"]
    assert run_command("evaluate", command(models(), "out_bad", *base, *more)) == 2
    assert line in only_error(capsys)
