"""Runs with stored reference scores and held-out rows, by the real command line."""

import pytest

from tests.conftest import script
from tests.factory import read_jsonl
from tests.processes import run_two
from tests.text.factory import label_rows, pair_rows, write_jsonl
from tests.text.runs import fails_with, flags, metrics, train


def close(live, stored):
    """Equal to rounding; so at the first step the sign of a margin of nothing may be either."""
    compared = [
        {k: v for k, v in line.items() if k != "rewards/accuracies"} for line in (live, stored)
    ]
    return compared[1] == pytest.approx(compared[0], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("peft", [None, True])
def test_reference_scores_are_computed_once_and_found_again(lm, data, tmp_path, capsys, peft):
    stored = {
        "precompute_ref_log_probs": True,
        "reference_cache_dir": tmp_path / "cache",
        "use_peft": peft,
    }

    def output_of(name, **changes):
        train(*flags(lm, data["pairs"], tmp_path / name, **stored | changes))
        return capsys.readouterr().out

    train(*flags(lm, data["pairs"], tmp_path / "live", use_peft=peft))
    assert "reference    computing 12 of 12 rows: none are stored yet" in output_of("first")
    assert "reference    12 rows read from" in output_of("second")
    assert "reference    12 rows read from" in output_of(
        "other", beta=0.5, loss_type=["ipo", "sft"], learning_rate=1e-2
    )
    assert "those stored differ in tokens" in output_of("shorter", max_length=12)
    for a, b, c in zip(
        *(metrics(tmp_path / name) for name in ("live", "first", "second")), strict=True
    ):
        assert b == c
        assert close(a, b)
    # A table that is cut short is no table: it must be computed again, not read in part.
    for shard in (tmp_path / "cache").glob("*/*.arrow"):
        shard.write_bytes(shard.read_bytes()[:20])
    assert "computing 12 of 12 rows" in output_of("damaged")
    assert metrics(tmp_path / "damaged") == metrics(tmp_path / "first")


def test_two_processes_share_the_scoring(lm, data, tmp_path):
    stored = {
        "precompute_ref_log_probs": True,
        "reference_cache_dir": tmp_path / "cache",
        "train_batch_size": 2,
    }
    words = flags(lm, data["pairs"], tmp_path / "two", **stored)
    process = run_two(script("train_text_dpo", *words))
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("computing 12 of 12 rows") == 1
    train(*flags(lm, data["pairs"], tmp_path / "one"))
    for a, b in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert close(a, b)


def test_scores_that_no_loss_would_read_are_refused(lm, data, tmp_path, capsys):
    for loss, line in (("kto", "kto scores new pairs"), ("orpo", "loss orpo has no reference")):
        fails_with(
            flags(
                lm, data["pairs"], tmp_path / "run", loss_type=loss, precompute_ref_log_probs=True
            ),
            line,
            capsys,
        )


@pytest.mark.parametrize("loss", ["sigmoid", "kto", "orpo"])
def test_held_out_rows_are_measured_and_answered(lm, data, tmp_path, capsys, loss):
    held = write_jsonl(
        tmp_path / "test.jsonl", (label_rows(20) if loss == "kto" else pair_rows(20))[13:]
    )
    changes = {
        "loss_type": loss,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "eval_dataset_name": held,
    }
    changes |= {"eval_batch_size": 4, "max_new_tokens": 5, "eval_generations": 2}
    rows, out = data["labels" if loss == "kto" else "pairs"], tmp_path / "run"
    train(*flags(lm, rows, out, **changes))
    assert "held out     step 4: loss" in capsys.readouterr().out
    lines = read_jsonl(out / "eval.jsonl")
    assert [line["step"] for line in lines] == [3, 4]
    assert {"eval_loss", "eval_rewards/chosen", "eval_rewards/margins", "eval_logps/chosen"} <= set(
        lines[0]
    )
    samples = (out / "samples" / "step-4.txt").read_text()
    assert samples.count("[policy, step 4]") == 2
    assert samples.count("[reference]") == (0 if loss == "orpo" else 2)
    # Measuring leaves no trace in the training, and does not depend on the size of its batches.
    train(*flags(lm, rows, tmp_path / "quiet", loss_type=loss))
    assert metrics(out) == metrics(tmp_path / "quiet")
    train(*flags(lm, rows, tmp_path / "large", **changes | {"eval_batch_size": 7}))
    for a, b in zip(lines, read_jsonl(tmp_path / "large" / "eval.jsonl"), strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-5)


def test_held_out_rows_with_stored_scores_and_after_a_resume(lm, data, tmp_path):
    held = write_jsonl(tmp_path / "test.jsonl", pair_rows(20)[13:])
    changes = {
        "eval_strategy": "epoch",
        "eval_dataset_name": held,
        "max_train_steps": 6,
        "max_new_tokens": 3,
    }
    stored = {"precompute_ref_log_probs": True, "reference_cache_dir": tmp_path / "cache"}
    train(*flags(lm, data["pairs"], tmp_path / "live", **changes))
    train(
        *flags(lm, data["pairs"], tmp_path / "stored", checkpointing_steps=5, **changes, **stored)
    )
    resume = {"resume_from_checkpoint": "latest"}
    train(
        *flags(
            lm,
            data["pairs"],
            tmp_path / "stored",
            checkpointing_steps=5,
            **changes,
            **stored,
            **resume,
        )
    )
    live, kept = (read_jsonl(tmp_path / name / "eval.jsonl") for name in ("live", "stored"))
    assert [line["step"] for line in live] == [3, 6]
    for a, b in zip(live, kept, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)


def test_rows_that_are_partly_trained_on_are_not_called_held_out(lm, data, tmp_path, capsys):
    mixed = write_jsonl(tmp_path / "test.jsonl", pair_rows(20)[10:])
    changes = {"eval_strategy": "epoch", "eval_dataset_name": mixed, "eval_generations": 0}
    train(*flags(lm, data["pairs"], tmp_path / "run", **changes, max_train_steps=1))
    shown = capsys.readouterr().out
    assert "measured     step 1: loss" in shown
    assert "on 10 rows, 2 of them in the training set" in shown
    assert "held out" not in shown


def test_held_out_rows_must_not_be_the_training_rows(lm, data, tmp_path, capsys):
    changes = {"eval_strategy": "steps", "dataset_test_split": "train"}
    fails_with(flags(lm, data["pairs"], tmp_path / "run", **changes), "are trained on", capsys)
