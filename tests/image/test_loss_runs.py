"""Sums of losses, the winner's safeguard and a moving reference through the real command."""

import json

import pytest
import torch

from diffdpo.cli import run_command
from diffdpo.engine.checkpoint_state import AVERAGES, FILE, digest_of
from diffdpo.image.scoring.errors import products
from tests.commands.image_runs import flags, metrics, same, train, weights

LAMBDA = "safeguard/loser_scale"


def test_products_are_sums_over_the_draws_of_a_pair_of_any_rank():
    torch.manual_seed(0)
    for shape in ((8, 3, 2, 2), (8, 3, 2, 2, 2), (8, 5)):
        residual = torch.randn(shape, requires_grad=True)
        found = products(residual, draws=2)
        winner, loser = residual.detach().chunk(2)
        for pair in range(2):
            rows = slice(2 * pair, 2 * pair + 2)
            norm, cross = winner[rows].square().sum(), (winner[rows] * loser[rows]).sum()
            torch.testing.assert_close(found.winner_B[pair], norm)
            torch.testing.assert_close(found.cross_B[pair], cross)
        assert not found.cross_B.requires_grad


@pytest.mark.parametrize("loss", ["sigmoid", ["linear", "sft"]])
def test_the_safeguard_is_logged_and_changes_what_is_learned(models, pairs, tmp_path, loss):
    for name, mu in (("free", None), ("held", 1.0)):
        changes = {"loss_type": loss, "winner_safeguard": mu, "max_train_steps": 2}
        train(*flags(models(), pairs, tmp_path / name, **changes))
    free, held = metrics(tmp_path / "free"), metrics(tmp_path / "held")
    # The noise of winner and loser is one, and so are most of their residuals.
    assert all(0 <= line[LAMBDA] < 1 for line in held)
    assert LAMBDA not in free[0]
    assert held[0]["loss"] == free[0]["loss"]
    assert held[0]["grad_norm"] != free[0]["grad_norm"]
    assert not same(weights(tmp_path / "free"), weights(tmp_path / "held"))


@pytest.mark.parametrize("rank", [4, None])
def test_a_moving_reference_begins_at_the_policy_and_is_resumed_bit_for_bit(
    models, pairs, tmp_path, rank, capsys
):
    changes = {"reference": "ema", "reference_decay": 0.5, "rank": rank, "loss_type": "linear"}
    train(*flags(models(), pairs, tmp_path / "straight", **changes))
    assert "reference: a moving average of the policy, decay 0.5" in capsys.readouterr().out
    cut = {**changes, "checkpointing_steps": 2}
    train(*flags(models(), pairs, tmp_path / "cut", **cut, max_train_steps=2))
    assert (tmp_path / "cut" / "checkpoint-2" / AVERAGES).exists()
    for result in ("pytorch_lora_weights.safetensors", "model_index.json"):
        (tmp_path / "cut" / result).unlink(missing_ok=True)
    train(*flags(models(), pairs, tmp_path / "cut", **cut, resume_from_checkpoint="latest"))
    straight = metrics(tmp_path / "straight")
    assert metrics(tmp_path / "cut") == straight
    assert straight[0]["rewards/margins"] == 0.0
    if rank:
        assert same(weights(tmp_path / "cut"), weights(tmp_path / "straight"))
    fixed = {"loss_type": "linear", "rank": rank}
    train(*flags(models(), pairs, tmp_path / "fixed", **fixed))
    start = metrics(tmp_path / "fixed")
    assert start[1]["error/reference_chosen"] != straight[1]["error/reference_chosen"]


@pytest.mark.parametrize("rank", [4, None])
def test_an_average_of_the_last_step_alone_is_the_policy_to_the_last_bit(
    models, pairs, tmp_path, rank
):
    """Under autocast as well, which keeps copies of weights in half precision."""
    changes = {"reference": "ema", "reference_decay": 0, "rank": rank, "mixed_precision": "bf16"}
    changes |= {"gradient_accumulation_steps": 2, "train_batch_size": 2, "max_train_steps": 3}
    train(*flags(models(), pairs, tmp_path / "run", **changes))
    lines = metrics(tmp_path / "run")
    assert [line["rewards/margins"] for line in lines] == [0.0, 0.0, 0.0]
    assert all(line["grad_norm"] > 0 for line in lines)


def test_a_run_of_one_loss_that_an_earlier_version_began_goes_on(models, pairs, tmp_path):
    """There ``loss_type`` was one word, and the newer settings were unknown."""
    out = tmp_path / "run"
    train(*flags(models(), pairs, out, max_train_steps=2, checkpointing_steps=2))
    file = out / "checkpoint-2" / FILE
    state = json.loads(file.read_text())
    settings = state["settings"]
    assert settings["loss_type"] == ["sigmoid"]
    settings["loss_type"] = "sigmoid"
    for name in ("loss_weights", "winner_safeguard", "reference", "reference_decay", "linear_eta"):
        del settings[name]
    del state["digest"]
    file.write_text(json.dumps({**state, "digest": digest_of(state)}))
    (out / "pytorch_lora_weights.safetensors").unlink()
    train(*flags(models(), pairs, out, max_train_steps=3, resume_from_checkpoint="latest"))
    assert [line["step"] for line in metrics(out)] == [1, 2, 3]


def test_a_sum_is_named_at_the_start_and_sft_alone_needs_no_reference(
    models, pairs, tmp_path, capsys
):
    words = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1, 250], "max_train_steps": 1}
    train(*flags(models(), pairs, tmp_path / "sum", **words))
    assert "sigmoid + 250 sft; beta 5000" in capsys.readouterr().out
    line = metrics(tmp_path / "sum")[0]
    # ln 2, and 250 times half the squared error of the winners
    assert line["loss"] == pytest.approx(0.693147 + 125 * line["error/policy_chosen"], rel=1e-5)
    train(*flags(models(), pairs, tmp_path / "sft", sft=True, max_train_steps=1))
    assert "reference: none" in capsys.readouterr().out


MISTAKES = {
    "decay alone": ({"reference_decay": 0.9}, "--reference_decay belongs to --reference ema"),
    "stored": ({"reference": "ema", "reference_draws": 2}, "change with every step"),
    "no reference": ({"reference": "ema", "loss_type": "mapo"}, "mapo has no reference"),
    "no pair": ({"winner_safeguard": 0.5, "loss_type": "kto"}, "kto judges single items"),
    "no loser": ({"winner_safeguard": 0.5, "sft": True}, "sft has no loser"),
    "mu": ({"winner_safeguard": 1.5}, "--winner_safeguard must be at most 1"),
    "weights": ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1]}, "1 weights for 2 losses"),
    "kinds": ({"loss_type": ["sigmoid", "kto"]}, "kto judges single items and cannot be added"),
    "no gap": ({"gap_scale": 2}, "--gap_scale: sigmoid reads no gap"),
    "no scores": ({"score_column": "hps"}, "--score_column: sigmoid reads no gap"),
    "text": ({"loss_type": ["sigmoid", "simpo"]}, "simpo is defined on token log-prob"),
    "eta": ({"linear_eta": 0.5}, "--linear_eta must be below 0.5"),
}


@pytest.mark.parametrize(("changes", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(tmp_path, capsys, changes, line):
    words = [str(word) for word in flags(None, None, tmp_path / "run", **changes)]
    assert run_command("train_diffusion_dpo", words) == 2
    printed = capsys.readouterr().err
    assert line in printed
    assert "Traceback" not in printed
