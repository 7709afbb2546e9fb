"""Going on from an older checkpoint leaves the branch that was run before."""

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
