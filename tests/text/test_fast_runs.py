"""The flags of the fast paths, by the real command line."""

import math

import pytest

from tests.conftest import script
from tests.processes import run_two
from tests.text.runs import flags, metrics, train


def close(one, two):
    return all(
        b == pytest.approx(a, rel=1e-3, abs=1e-4)
        for a, b in zip(metrics(one), metrics(two), strict=True)
    )


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("peft", [None, True])
def test_the_first_step_is_ln_2_whether_prompts_are_shared_or_not(
    lm, data, tmp_path, precision, peft
):
    for share in ("true", "false"):
        out = tmp_path / share
        train(
            *flags(
                lm, data["pairs"], out, share_prefix=share, mixed_precision=precision, use_peft=peft
            )
        )
        first = metrics(out)[0]
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-7)
        assert first["rewards/margins"] == 0
    if precision == "no":
        assert close(tmp_path / "true", tmp_path / "false")


def test_two_processes_with_shared_prompts_and_like_lengths(lm, data, tmp_path):
    changes = {"share_prefix": True, "group_by_length": True}
    words = flags(lm, data["pairs"], tmp_path / "two", train_batch_size=2, **changes)
    process = run_two(script("train_text_dpo", *words))
    assert process.returncode == 0, process.stderr
    train(*flags(lm, data["pairs"], tmp_path / "one", **changes))
    assert close(tmp_path / "one", tmp_path / "two")
    train(
        *flags(
            lm,
            data["pairs"],
            tmp_path / "parts",
            train_batch_size=1,
            gradient_accumulation_steps=4,
            **changes,
        )
    )
    assert close(tmp_path / "one", tmp_path / "parts")


def test_what_is_logged_of_tokens(lm, data, tmp_path):
    for rows, loss in (("pairs", "sigmoid"), ("labels", "kto"), ("pairs", "orpo")):
        train(*flags(lm, data[rows], tmp_path / loss, loss_type=loss))
        for line in metrics(tmp_path / loss):
            assert {"entropy", "mean_token_accuracy", "num_tokens"} <= set(
                line
            ) or "rewards/chosen" not in line
            assert all(
                (f"logits/{side}" in line) == (f"rewards/{side}" in line)
                for side in ("chosen", "rejected")
            )
            assert 0 <= line.get("entropy", 0) <= math.log(271)


def test_like_lengths_resume_to_the_same_bits(lm, data, tmp_path):
    changes = {
        "group_by_length": True,
        "train_batch_size": 2,
        "max_train_steps": 8,
        "lr_scheduler": "constant",
    }
    train(*flags(lm, data["pairs"], tmp_path / "straight", **changes))
    train(
        *flags(
            lm,
            data["pairs"],
            tmp_path / "cut",
            **changes | {"max_train_steps": 5, "checkpointing_steps": 5},
        )
    )
    train(*flags(lm, data["pairs"], tmp_path / "cut", resume_from_checkpoint="latest", **changes))
    # Cut in the middle of an epoch, where the order by length must be found again.
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "straight")
    train(*flags(lm, data["pairs"], tmp_path / "chance", **changes | {"group_by_length": None}))
    assert metrics(tmp_path / "chance") != metrics(tmp_path / "straight")
