"""The best step of a text run, by what was measured on held-out rows."""

import pytest
from safetensors.torch import load_file

from tests.factory import read_jsonl
from tests.runs import sums
from tests.text.factory import pair_rows, write_jsonl
from tests.text.runs import fails_with, flags, train


@pytest.mark.parametrize("rate", [1e-3, 1.0])
def test_the_exported_adapter_is_that_of_the_best_step(lm, data, tmp_path, rate, capsys):
    held = write_jsonl(tmp_path / "test.jsonl", pair_rows(20)[13:])
    own = {"eval_strategy": "steps", "eval_steps": 1, "eval_dataset_name": held}
    own |= {"eval_generations": 0, "use_peft": True, "lora_r": 2, "learning_rate": rate}
    out = tmp_path / "run"
    words = flags(
        lm, data["pairs"], out, **own, load_best_model_at_end=True, early_stopping_patience=2,
        max_train_steps=6,
    )  # fmt: skip
    train(*words)
    lines = read_jsonl(out / "eval.jsonl")
    best = min(lines, key=lambda line: (line["eval_loss"], line["step"]))["step"]
    assert len(lines) == min(6, best + 2)
    then = load_file(out / f"checkpoint-{best}" / "trainable.safetensors")
    result = load_file(out / "adapter_model.safetensors")
    assert sums(result) == pytest.approx(sums(then))
    assert f"best         step {best} by eval_loss" in capsys.readouterr().out


def test_without_rows_to_judge_by_it_is_refused(lm, data, tmp_path, capsys):
    words = flags(lm, data["pairs"], tmp_path / "run", keep_best=True)
    fails_with([str(word) for word in words], "--keep_best: no rows to judge by", capsys)
