"""What train_diffusion_dpo refuses, each in one line."""

import json
import shutil

import pytest

from diffdpo.cli import run_command
from tests.commands.image_runs import flags, train
from tests.conftest import script
from tests.factory import make_pairs
from tests.processes import run_forked, run_two

# What newcomers do wrong: one line each on stderr, exit code 2, no traceback.
MISTAKES = {
    "no model": ({"pretrained_model_name_or_path": "/no/such/model"}, "no such folder"),
    "no data": ({"dataset_name": "/no/such/data"}, "no such file or folder"),
    "no split": ({"dataset_split_name": "tset"}, "has no split 'tset'; found train"),
    "unknown loss": ({"loss_type": "sigmod"}, "unknown"),
    "text loss": ({"loss_type": "orpo"}, "token log-probabilities"),
    "beta": ({"beta_dpo": 0}, "--beta_dpo must be above 0"),
    "batch": ({"train_batch_size": 0}, "--train_batch_size must be at least 1"),
    "rate": ({"learning_rate": "nan"}, "--learning_rate"),
    "resolution": ({"resolution": 33}, "not a multiple of 2; take 32"),
    "smoothing": ({"loss_type": "hinge", "label_smoothing": 0.1}, "these have: sigmoid"),
    "labelling": ({"choice_model": "pickscore"}, "labels are a separate step"),
    "wrong family": ({"sdxl": True}, "leave the flag out"),
    "no checkpoint": ({"resume_from_checkpoint": "checkpoint-7"}, "no such checkpoint"),
    "typo": ({"beta_dop": 1}, "did you mean --beta_dpo?"),
}


@pytest.mark.parametrize(("changes", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(models, pairs, tmp_path, capsys, changes, line):
    words = flags(models(), pairs, tmp_path / "run", **changes)
    capsys.readouterr()  # of making the model
    code = run_command("train_diffusion_dpo", words)
    shown = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(shown) == 1
    assert shown[0].startswith("error: ")
    assert line in shown[0]


def test_all_wrong_settings_are_named_at_once(models, pairs, tmp_path, capsys):
    changes = {"beta_dpo": -1, "train_batch_size": 0, "learning_rate": -1, "ties": "keep"}
    assert (
        run_command("train_diffusion_dpo", flags(models(), pairs, tmp_path / "run", **changes)) == 2
    )
    assert len(capsys.readouterr().err.strip().splitlines()) == 4


def test_mistakes_leave_no_traceback_in_a_real_process(models, pairs, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    found = run_forked(script("train_diffusion_dpo", *flags(models(), pairs, blocked)))
    assert found.returncode == 2
    assert (
        found.stderr.strip()
        == f"error: --output_dir {blocked}: is there and is not a folder; choose another name"
    )


def test_two_processes_say_a_mistake_once(models, pairs, tmp_path):
    words = flags(models(), tmp_path, tmp_path / "run")
    found = run_two(script("train_diffusion_dpo", *words))
    assert found.returncode != 0
    assert sum(line.startswith("error: ") for line in found.stderr.splitlines()) == 1


def test_data_mistakes(models, tmp_path, capsys):
    def fails_with(data, line, **changes):
        code = run_command(
            "train_diffusion_dpo", flags(models(), data, tmp_path / "run", **changes)
        )
        assert code == 2
        assert line in capsys.readouterr().err

    fails_with(make_pairs(tmp_path / "ties", 3, ties=3), "all 3 rows are ties")
    (tmp_path / "columns.jsonl").write_text('{"image": "a.png", "text": "b"}\n')
    fails_with(tmp_path / "columns.jsonl", "needed are pick-a-pic: jpg_0")
    (tmp_path / "broken.jsonl").write_text('{"chosen": \n')
    fails_with(tmp_path / "broken.jsonl", "cannot be read")
    (tmp_path / "empty.jsonl").write_text("")
    fails_with(tmp_path / "empty.jsonl", "data set")
    fails_with(
        make_pairs(tmp_path / "good"), "no row has two dreamlike images", dreamlike_pairs_only=True
    )


def test_a_folder_with_another_run_is_not_continued_unasked(models, pairs, tmp_path, capsys):
    out = tmp_path / "run"
    train(*flags(models(), pairs, out, checkpointing_steps=2))
    before = (out / "metrics.jsonl").read_bytes()

    def refused(line, **changes):
        assert run_command("train_diffusion_dpo", flags(models(), pairs, out, **changes)) == 2
        assert line in capsys.readouterr().err
        assert (out / "metrics.jsonl").read_bytes() == before

    refused("holds another run")
    refused("--beta_dpo 5000.0, this one 1.0", resume_from_checkpoint="latest", beta_dpo=1)
    refused("effective batch is 4, not 2", resume_from_checkpoint="latest", train_batch_size=2)
    refused(
        "other data",
        resume_from_checkpoint="latest",
        dataset_name=make_pairs(tmp_path / "other", 5),
    )
    shutil.copytree(out / "checkpoint-4", tmp_path / "foreign")
    state = json.loads((tmp_path / "foreign" / "state.json").read_text())
    (tmp_path / "foreign" / "state.json").write_text(json.dumps(state | {"format": "x"}))
    refused("not a checkpoint of diffdpo", resume_from_checkpoint=tmp_path / "foreign")
    broken = out / "checkpoint-4" / "optimizer.safetensors"
    broken.write_bytes(broken.read_bytes()[:50])
    refused("damaged", resume_from_checkpoint="checkpoint-4")
