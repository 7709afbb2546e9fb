"""Twenty optimizer steps beside TRL's trainers, from the command line: the same model, rows and
losses."""

import numpy as np
import pytest
from datasets import Dataset
from transformers import TrainerCallback

from diffdpo.cli import run_command
from diffdpo.engine import batches
from tests.factory import read_jsonl
from tests.text.factory import label_rows, model, pair_rows, save_model, tokenizer, write_jsonl

trl = pytest.importorskip("trl")
ROWS, STEPS, RATE, WARMUP = 6, 20, 1e-3, 4


class Losses(TrainerCallback):
    """What TRL logs, unrounded."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.seen.append(logs["loss"])


def theirs(trainer_class, config_class, rows, folder, schedule, **more):
    config = config_class(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=ROWS,
        learning_rate=RATE,
        lr_scheduler_type=schedule,
        warmup_steps=WARMUP if schedule == "linear" else 0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        **more,
    )
    losses = Losses()
    trainer_class(
        model=model(),
        ref_model=model(),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        callbacks=[losses],
    ).train()
    return losses.seen


def ours(rows, folder, loss, schedule, *more):
    save_model(folder / "model", template=None)
    data = write_jsonl(folder / "rows.jsonl", rows)
    words = (
        f"--loss_type {loss} --max_steps {STEPS} --per_device_train_batch_size {ROWS}"
        f" --learning_rate {RATE}"
    )
    paths = [
        "--model_name_or_path",
        folder / "model",
        "--dataset_name",
        data,
        "--output_dir",
        folder / "run",
    ]
    words += f" --lr_scheduler_type {schedule} --report_to none"
    words += f" --warmup_steps {WARMUP}" if schedule == "linear" else ""
    assert run_command("train_text_dpo", [*map(str, paths), *words.split(), *more]) == 0
    return [line["loss"] for line in read_jsonl(folder / "run" / "metrics.jsonl")]


@pytest.mark.parametrize(("loss", "schedule"), [("sigmoid", "linear"), ("kto", "constant")])
def test_first_and_twentieth_loss_are_those_of_trl(tmp_path, monkeypatch, loss, schedule):
    """All rows in every step. TRL's KTO never shuffles, and who is paired with whom follows the
    order. ``linear`` begins with a warm-up, so a rate that is only logged gives other losses."""
    monkeypatch.setattr(batches, "epoch_order", lambda seed, epoch, size: np.arange(size))
    kinds = {
        "sigmoid": (trl.DPOTrainer, trl.DPOConfig, pair_rows(ROWS)),
        "kto": (trl.KTOTrainer, trl.KTOConfig, label_rows(ROWS)),
    }
    trainer, config, rows = kinds[loss]
    expected = theirs(trainer, config, rows, tmp_path / "trl", schedule)
    losses = ours(rows, tmp_path, loss, schedule)
    assert len(expected) == len(losses) == STEPS
    print(
        f"\n{loss}: step 1 {expected[0]:.8f} {losses[0]:.8f}; step 20 {expected[-1]:.8f}"
        f" {losses[-1]:.8f}"
    )
    assert losses[0] == pytest.approx(expected[0], abs=1e-6)
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert losses[-1] < 0.8 * losses[0]  # two runs that learn nothing would agree as well


def test_a_reference_that_the_policy_is_mixed_into_moves_as_trls(tmp_path):
    rows = pair_rows(ROWS)
    more = {"sync_ref_model": True, "ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 3}
    expected = theirs(trl.DPOTrainer, trl.DPOConfig, rows, tmp_path / "trl", "constant", **more)
    words = "--sync_ref_model --ref_model_mixup_alpha 0.6 --ref_model_sync_steps 3".split()
    got = ours(rows, tmp_path, "sigmoid", "constant", *words)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert got[3] > got[2]  # the reference has come after the policy
