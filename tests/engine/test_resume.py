"""Going on from an older checkpoint leaves the branch that was run before."""

import json
from pathlib import Path

import pytest

from diffdpo.cli import run_command
from diffdpo.engine import lock
from diffdpo.engine.checkpoint_state import WITHOUT_DIGESTS
from diffdpo.engine.files import HOST
from diffdpo.engine.resume import check_same_run
from diffdpo.engine.trainer import Trainer
from diffdpo.errors import UserError
from tests.commands.image_runs import flags, metrics, train


def test_what_lies_ahead_of_an_older_checkpoint_is_set_aside(models, pairs, tmp_path, capsys):
    out = tmp_path / "run"

    def run(steps, **changes):
        train(*flags(models(), pairs, out, max_train_steps=steps, **changes))

    run(4, checkpointing_steps=2)
    for result in ("pytorch_lora_weights.safetensors", "model_index.json"):
        (out / result).unlink(missing_ok=True)
    run(3, checkpointing_steps=1, resume_from_checkpoint="checkpoint-2")
    assert "checkpoint-4.abandoned: of the steps after 2" in capsys.readouterr().out
    names = {path.name for path in out.glob("checkpoint-*")}
    assert names == {"checkpoint-2", "checkpoint-3", "checkpoint-4.abandoned"}
    run(4, checkpointing_steps=1, resume_from_checkpoint="latest")
    assert "checkpoint-3 at step 3" in capsys.readouterr().out
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4]


def test_another_length_under_a_schedule_that_ends_with_the_run_is_said(
    models, pairs, tmp_path, capsys
):
    """The rates are those of the new plan, not of the old one; a constant rate has no plan."""
    first = {"checkpointing_steps": 2, "learning_rate": 1e-3}

    def run(name, **changes):
        train(*flags(models(), pairs, tmp_path / name, **{**first, **changes}))
        return capsys.readouterr().out

    linear = {"lr_scheduler": "linear"}
    again = {"resume_from_checkpoint": "latest"}
    line = "--lr_scheduler linear was planned over 2 steps and is now planned over 4"
    assert line not in run("linear", max_train_steps=2, **linear)
    assert line in run("linear", max_train_steps=4, **linear, **again)
    assert [row["lr"] for row in metrics(tmp_path / "linear")] == [1e-3, 5e-4, 5e-4, 2.5e-4]
    assert "planned over" not in run("linear", max_train_steps=4, **linear, **again)
    epochs = {"max_train_steps": None, "num_train_epochs": 2}  # 12 pairs in steps of 4: 6 steps
    shown = run("linear", **epochs, **linear, **again)
    assert "was planned over 4 steps and is now planned over 6" in shown
    run("constant", max_train_steps=2)
    assert "planned over" not in run("constant", max_train_steps=4, **again)


def test_a_checkpoint_that_a_kill_caught_between_two_names_is_found(
    models, pairs, tmp_path, capsys
):
    out = tmp_path / "run"
    train(*flags(models(), pairs, out, max_train_steps=2, checkpointing_steps=2))
    (out / "checkpoint-2").rename(out / ".checkpoint-2.old")
    (out / f".checkpoint-2.{HOST}-999999999.tmp").mkdir()
    words = flags(models(), pairs, out, max_train_steps=3, resume_from_checkpoint="latest")
    train(*words)
    assert "checkpoint-2 at step 2" in capsys.readouterr().out
    assert not list(out.glob(".checkpoint*"))


def test_an_older_checkpoint_retires_the_later_ones_before_the_first_step(
    models, pairs, tmp_path, capsys
):
    """So that "latest" after a kill leads to the new branch, and metrics.jsonl has every step."""
    out = tmp_path / "run"

    def run(steps, **changes):
        train(*flags(models(), pairs, out, max_train_steps=steps, **changes))

    run(4, checkpointing_steps=1)
    (out / "pytorch_lora_weights.safetensors").unlink()
    again = flags(models(), pairs, out, resume_from_checkpoint="checkpoint-2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "batches", killed)
        assert run_command("train_diffusion_dpo", [*map(str, again)]) == 130
    assert [line["step"] for line in metrics(out)] == [1, 2]
    capsys.readouterr()
    run(4, checkpointing_steps=1, resume_from_checkpoint="latest")
    assert "checkpoint-2 at step 2" in capsys.readouterr().out
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4]


def killed(trainer, start):
    raise KeyboardInterrupt


def test_a_setting_that_an_earlier_version_did_not_have_counts_as_its_default():
    then = {"settings": {"seed": 0}, "effective_batch": 4, "data": "d"}
    now = {**then, "settings": {"seed": 0, "newer": False}}
    filled = {**then, "settings": {"newer": False, **then["settings"]}}
    check_same_run(Path("checkpoint-3"), filled, now, set())
    with pytest.raises(UserError, match="its run has --newer False, this one True"):
        check_same_run(Path("c"), filled, {**now, "settings": {"seed": 0, "newer": True}}, set())
    with pytest.raises(UserError, match="--gone 3, which this version does not know"):
        check_same_run(Path("c"), {**then, "settings": {"seed": 0, "gone": 3}}, then, set())


def test_a_checkpoint_of_an_earlier_version_goes_on_and_says_that_it_has_no_digests(
    models, pairs, tmp_path, capsys
):
    out = tmp_path / "run"
    train(*flags(models(), pairs, out, max_train_steps=2, checkpointing_steps=2))
    file = out / "checkpoint-2" / "state.json"
    state = json.loads(file.read_text())
    kept = {k: v for k, v in state.items() if k not in ("digest", "files")}
    del kept["settings"]["tracker_name"], kept["settings"]["sft"]
    file.write_text(json.dumps({**kept, "format": WITHOUT_DIGESTS}))
    (out / "metrics.jsonl").write_text('{"step": 1}\n')
    train(*flags(models(), pairs, out, max_train_steps=3, resume_from_checkpoint="latest"))
    shown = capsys.readouterr().out
    assert "an earlier version wrote it, without digests" in shown
    assert "metrics.jsonl ends at step 1: it lacks steps 2 to 2" in shown


def test_the_folder_is_free_again_after_a_run_and_after_a_mistake(models, pairs, tmp_path):
    out = tmp_path / "run"
    train(*flags(models(), pairs, out, max_train_steps=1))
    assert not lock.held
    assert run_command("train_diffusion_dpo", flags(models(), pairs, out)) == 2
    assert not lock.held
    assert not (out / lock.FILE).exists()
