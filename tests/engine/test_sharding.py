"""Weights in shares over two processes (FSDP2 over gloo), against one process that does the same
micro-batches."""

import math

import pytest

from tests.conftest import script
from tests.processes import run_two
from tests.text.runs import flags, metrics, train

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def in_shares(command, *words, number=2):
    """A run in shares to its end; what it printed."""
    done = run_two(script(command, *words), number, **FSDP2)
    assert done.returncode == 0, done.stderr
    assert f"FSDP2: weights in shares over {number} processes" in done.stdout
    return done.stdout


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("peft", [None, True])
def test_text_in_shares_is_text_on_one_process(lm, data, tmp_path, peft, precision):
    changes = {"use_peft": peft, "mixed_precision": precision, "max_train_steps": 3}
    changes |= {"eval_strategy": "no"}
    in_shares(
        "train_text_dpo", *flags(lm, data["pairs"], tmp_path / "two", train_batch_size=2, **changes)
    )
    cut = {"train_batch_size": 2, "gradient_accumulation_steps": 2}
    train(*flags(lm, data["pairs"], tmp_path / "one", **cut, **changes))
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    print(
        [a["loss"] - b["loss"] for a, b in zip(one, two)],
        [a["grad_norm"] / b["grad_norm"] - 1 for a, b in zip(one, two)],
    )
    assert two[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)
