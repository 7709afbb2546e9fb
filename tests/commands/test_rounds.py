"""Rounds: every stage with the settings of the round before it, nothing done twice, and the end."""

import json
import shutil

import pytest
import yaml
from datasets import load_dataset

from diffdpo.cli import main
from diffdpo.commands.rounds import falls, judging_of, pairs_of, training_of, unlabelled
from diffdpo.commands.rounds_settings import SHARED, TAKEN, RoundsSettings
from diffdpo.config import settings_of
from diffdpo.errors import UserError
from diffdpo.metrics.intervals import clustered_share

FAST = {"num_inference_steps": 1, "guidance_scale": 1.0}


def written(tmp_path, models, **changes):
    """The file of a plan of two quick rounds, and its folder."""
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na sun\n")
    (tmp_path / "held_out.txt").write_text("a star\na tree\n")
    plan = {
        "pretrained_model_name_or_path": str(models()),
        "prompts": str(tmp_path / "prompts.txt"),
        "eval_prompts": str(tmp_path / "held_out.txt"),
        "reward": "colourfulness",
        "held_out_reward": ["jpeg_compressibility"],
        "output_dir": str(tmp_path / "out"),
        "make_pairs": {"candidates": 2, "precompute_dir": str(tmp_path / "tables"), **FAST},
        "train": {"max_train_steps": 1, "train_batch_size": 1, "learning_rate": 1e-3},
        "evaluate": {"images_per_prompt": 1, **FAST},
    } | changes
    plan = {name: value for name, value in plan.items() if value is not None}
    (tmp_path / "rounds.yaml").write_text(yaml.safe_dump(plan))
    return ["rounds", "--config", str(tmp_path / "rounds.yaml")], tmp_path / "out"


def config(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("reference", "rank", "own"),
    [("first", None, "base"), ("previous", 2, "start")],
)
def test_a_round_goes_on_from_the_one_before(
    models, tmp_path, capsys, monkeypatch, reference, rank, own
):
    monkeypatch.setattr("diffdpo.commands.rounds.falls", lambda settings, number: False)
    train = {"max_train_steps": 1, "train_batch_size": 1, "learning_rate": 1e-3}
    train |= {"rank": rank} if rank else {}
    words, out = written(tmp_path, models, reference=reference, train=train, keep_pairs=0.5)
    assert main(words) == 0
    first, second = (config(out / f"policy-{number}") for number in (1, 2))
    start = second["init_lora" if rank else "unet_init"]
    assert start == str(out / "policy-1")
    assert (first["reference"], second["reference"]) == ("start", own)
    assert second["dataset_name"] == str(out / "data-2")
    rows = load_dataset("parquet", data_dir=str(out / "data-2"), split="train")
    assert len(rows) == 5  # three new pairs, and half as many of the first round
    made = json.loads((out / "pairs-2" / "make_pairs.json").read_text())
    assert list(made["rewards"]) == ["colourfulness"]
    figures = json.loads((out / "evaluation" / "evaluation.json").read_text())
    assert list(figures["policies"]) == ["policy-1", "policy-2"]
    assert figures["reward"] == "jpeg_compressibility"
    assert figures["judges"]["colourfulness"]["made the training pairs"]
    # Again: nothing is left to do.
    capsys.readouterr()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert main(words) == 0
    assert capsys.readouterr().out.count("finished before") == 7
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    # Other settings would not be those of what is there.
    assert main([*words, "--seed", "5"]) == 2
    assert "pairs-1 was finished with other settings (seed)" in capsys.readouterr().err


def test_people_are_waited_for(models, tmp_path, capsys):
    words, out = written(tmp_path, models, label="people")
    for _ in range(2):
        assert main(words) == 0
        shown = capsys.readouterr().out
        assert f"diffdpo annotate {out / 'pairs-1'} --output_dir {out / 'votes-1'}" in shown
    assert not (out / "policy-1").exists()
    # What the page writes at its end is trained on.
    shutil.copytree(out / "pairs-1", out / "votes-1" / "pairs")
    settings = settings_of(RoundsSettings, config=words[2])
    assert unlabelled(settings, 1) == ""
    assert training_of(settings, 1)["dataset_name"] == str(out / "votes-1" / "pairs")


@pytest.mark.parametrize(("wins", "stops"), [(10, True), (35, False), (60, False)])
def test_it_ends_where_the_held_out_judge_prefers_the_round_before(tmp_path, capsys, wins, stops):
    rate = clustered_share([1.0] * wins + [0.0] * (70 - wins), range(70))
    row = {"reward": "jpeg_compressibility", "policy": "policy-2", "against": "policy-1"}
    other = {**row, "against": "reference", "win_rate": None}
    (tmp_path / "evaluation").mkdir()
    table = {"table": [other, {**row, "win_rate": rate.as_dict()}]}
    (tmp_path / "evaluation" / "evaluation.json").write_text(json.dumps(table))
    settings = RoundsSettings(
        output_dir=str(tmp_path), held_out_reward=["jpeg_compressibility", "style"]
    )
    assert falls(settings, 2) == stops
    assert ("round 1 is the result" in capsys.readouterr().out) == stops


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"prompts": None}, "--prompts is needed"),
        ({"held_out_reward": ["colourfulness"]}, "makes the pairs, so it is not held out"),
        ({"held_out_reward": ["stile"]}, "'stile' is unknown"),
        ({"train": {"output_dir": "x"}}, "train: output_dir is set by rounds itself"),
        ({"train": "fast"}, "train is one value; names with values are wanted"),
        ({"train": {"max_steps": 1}}, "unknown setting 'max_steps'"),
        ({"rounds": 0}, "--rounds must be at least 1"),
        ({"evaluate": {"num_prompt": 1}}, "evaluate: unknown setting 'num_prompt' (did you mean"),
        ({"evaluate": {"images_per_prompt": 0}}, "evaluate: --images_per_prompt must be at least"),
        ({"train": {"lora_alpha": 2}}, "train: --lora_alpha is about a LoRA"),
        ({"train": {"learning_rate": "fast"}}, "train: --learning_rate: invalid float value"),
        ({"make_pairs": {"candidates": 1}}, "make_pairs: --candidates must be at least 2"),
    ],
)
def test_a_plan_that_cannot_work_is_told_before_anything_is_made(
    models, tmp_path, capsys, changes, line
):
    words, out = written(tmp_path, models, **changes)
    assert main(words) == 2
    assert line in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("section", "stage"),
    [("make_pairs", pairs_of), ("train", training_of), ("evaluate", judging_of)],
)
def test_a_section_cannot_hold_what_rounds_sets_itself(models, tmp_path, section, stage):
    words, _ = written(tmp_path, models)
    settings = settings_of(RoundsSettings, config=words[2])
    own = {*stage(settings, 1), *stage(settings, 2)} - {*settings.section(section)}
    assert own <= {*TAKEN[section], *SHARED}
    for name in own:
        with pytest.raises(UserError, match=f"{section}: {name} is set by rounds itself"):
            settings_of(RoundsSettings, config=words[2], **{section: {name: 1}})


def test_nested_settings_are_json_on_the_command_line(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n")
    given = {"prompts": str(tmp_path / "p.txt"), "eval_prompts": str(tmp_path / "p.txt")}
    given |= {"reward": ["colourfulness"], "held_out_reward": ["style"]}
    settings = settings_of(RoundsSettings, train={"rank": 4, "no_hflip": True}, **given)
    assert settings.train == {"rank": 4, "no_hflip": True}
