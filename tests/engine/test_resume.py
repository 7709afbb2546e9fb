"""Going on from an older checkpoint leaves the branch that was run before."""

from diffdpo.engine.files import HOST
from tests.commands.test_train_diffusion_dpo import flags, metrics, train


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
