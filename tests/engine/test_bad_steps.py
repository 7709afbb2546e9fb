"""Steps whose numbers are not finite: not taken, named, counted, and never in a checkpoint."""

import json
import math

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from diffdpo.cli import run_command
from diffdpo.engine.bad_steps import all_finite, not_finite, take_step
from diffdpo.engine.checkpoint_state import read_state, seal
from diffdpo.engine.journal import Journal
from tests.commands.image_runs import flags as image_flags
from tests.text.runs import flags, train

# A loss whose value in one row of a step is no number.
ONE_ROW = "torch.where(torch.arange(len(loss_B)) == 1, float('nan'), loss_B)"
# A loss whose value, or whose gradient alone, is not finite in the steps of a list.
OWN = """
import torch
import torch.nn.functional as F
from diffdpo.losses import Loss

STEPS, seen = {steps}, [0]

def broken(chosen_B, rejected_B, *, beta):
    seen[0] += chosen_B.requires_grad  # a loss is tried once before training, without gradient
    loss_B = -F.logsigmoid(beta * (chosen_B - rejected_B))
    if seen[0] not in STEPS or not chosen_B.requires_grad:
        return loss_B
    return {way}
"""
NAN = "loss_B * float('nan')"
CLAMPED = "loss_B.clamp(max=0) + float('inf')"  # its gradient is 0
STEEP = "(loss_B - loss_B.detach()) * 1e30 * 1e10 + loss_B.detach()"
NAMED = {NAN: {"loss", "grad_norm"}, CLAMPED: {"loss"}, STEEP: {"grad_norm"}}


@pytest.fixture
def own_loss(tmp_path):
    """``own_loss(steps, way)``: the name of a loss that breaks in these steps."""

    def make(steps, way=NAN):
        path = tmp_path / "own.py"
        path.write_text(OWN.format(steps=set(steps), way=way))
        return f"{path}:broken"

    return make


def words(lm, data, out, **changes):
    options = {"use_peft": True, "lora_r": 2, "max_train_steps": 6, "checkpointing_steps": 1}
    return [str(w) for w in flags(lm, data["pairs"], out, **{**options, **changes})]


def lines(out):
    """metrics.jsonl by a reader that takes valid JSON only."""

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    text = (out / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def weights(out, step):
    return load_file(out / f"checkpoint-{step}" / "trainable.safetensors")


def state(out, step):
    return load_file(out / f"checkpoint-{step}" / "optimizer.safetensors")


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
@pytest.mark.parametrize("way", [NAN, CLAMPED, STEEP])
def test_a_bad_step_changes_nothing_and_is_named(
    lm, data, own_loss, tmp_path, capsys, way, optimizer
):
    if optimizer == "adafactor" and way != NAN:
        pytest.skip("the same road")
    out = tmp_path / "run"
    loss = own_loss([3, 4], way)
    adafactor = {"use_adafactor": True} if optimizer == "adafactor" else {}
    train(*words(lm, data, out, loss_type=loss, **adafactor))
    shown = capsys.readouterr().out
    found = lines(out)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in found if "skipped_rows" in row] == [3, 4]
    for row in (found[2], found[3]):
        assert set(row["not_finite"]) >= NAMED[way]
        assert all(row[name] is None for name in row["not_finite"])
        assert len(row["skipped_rows"]) == 4
        assert ", ".join(map(str, row["skipped_rows"])) in shown
    # All twelve rows once in three steps: the counter went on, and so did the draws.
    assert sorted(found[2]["skipped_rows"] + found[3]["skipped_rows"]) != sorted(range(8))
    assert "not taken    step 3: " in shown
    assert "not taken    step 4: " in shown
    # The checkpoints of steps 3 and 4 waited for step 5.
    assert sorted(path.name for path in out.glob("checkpoint-*")) == [
        f"checkpoint-{step}" for step in (1, 2, 5, 6)
    ]
    if optimizer == "adamw":
        steps = {float(v) for name, v in state(out, 5).items() if name.endswith(".step")}
        assert steps == {3.0}  # AdamW's own count is that of the steps taken


def test_steps_that_are_not_taken_leave_the_weights_of_the_others(lm, data, own_loss, tmp_path):
    """With step 2 broken, step 3 starts from the weights of step 1."""
    train(*words(lm, data, tmp_path / "a", loss_type=own_loss([2]), max_train_steps=3))
    train(*words(lm, data, tmp_path / "b", max_train_steps=1))
    assert same(weights(tmp_path / "a", 1), weights(tmp_path / "b", 1))
    first, third = lines(tmp_path / "a")[0], lines(tmp_path / "a")[2]
    assert first["loss"] == pytest.approx(math.log(2))
    assert third["loss"] != first["loss"]
    assert not same(weights(tmp_path / "a", 1), weights(tmp_path / "a", 3))


def test_the_row_that_is_no_number_is_told_from_the_others(lm, data, own_loss, tmp_path, capsys):
    out = tmp_path / "run"
    # The second micro-batch of step 2, and its second row.
    cut = {"train_batch_size": 2, "gradient_accumulation_steps": 2, "max_train_steps": 3}
    train(*words(lm, data, out, loss_type=own_loss([4], ONE_ROW), **cut))
    row = lines(out)[1]
    assert row["bad_rows"] == [row["skipped_rows"][3]]
    assert f"the loss of row {row['bad_rows'][0]} (of rows " in capsys.readouterr().out


def test_too_many_in_a_row_end_the_run_with_its_last_good_checkpoint(
    lm, data, own_loss, tmp_path, capsys
):
    out = tmp_path / "run"
    more = {"max_bad_steps": 3, "max_train_steps": 20, "checkpoints_total_limit": 1}
    loss = own_loss([2, *range(4, 20)])
    assert run_command("train_text_dpo", words(lm, data, out, loss_type=loss, **more)) == 2
    printed, complaint = capsys.readouterr()
    (line,) = [line for line in complaint.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: 3 steps in a row had a loss or gradient that is not finite")
    assert f"{out / 'checkpoint-3'} is whole" in line
    assert [row["step"] for row in lines(out)] == [1, 2, 3, 4, 5, 6]
    assert printed.count("not taken    step") == 4
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-3"]
    assert not (out / "adapter_model.safetensors").exists()


def test_a_run_that_ends_in_bad_steps_has_no_result_until_a_good_one(
    lm, data, own_loss, tmp_path, capsys
):
    out = tmp_path / "run"
    loss = own_loss([4])
    assert (
        run_command("train_text_dpo", words(lm, data, out, loss_type=loss, max_train_steps=4)) == 2
    )
    assert "the run ended with 1 steps that were not taken" in capsys.readouterr().err
    assert not (out / "adapter_model.safetensors").exists()
    again = words(lm, data, out, loss_type=loss, max_train_steps=5, resume_from_checkpoint="latest")
    assert run_command("train_text_dpo", again) == 0
    assert (out / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("command", ["text", "image"])
def test_a_rate_that_ruins_the_weights_leaves_only_good_checkpoints(
    lm, data, models, pairs, tmp_path, capsys, command
):
    out = tmp_path / "run"
    absurd = {"learning_rate": 1e30, "max_train_steps": 12, "checkpointing_steps": 1}
    absurd |= {"checkpoints_total_limit": 2, "logging_steps": 10}
    if command == "text":
        code = run_command("train_text_dpo", words(lm, data, out, **absurd))
    else:
        code = run_command("train_diffusion_dpo", image_flags(models(), pairs, out, **absurd))
    assert code == 2
    assert "Traceback" not in capsys.readouterr().err
    for path in out.glob("checkpoint-*/*.safetensors"):
        assert not_finite(iter(load_file(path).items())) is None
    assert lines(out)
    assert not list(out.glob("*.safetensors"))


def test_a_damaged_network_is_refused_before_its_first_step(lm, data, tmp_path, capsys):
    out = tmp_path / "run"
    train(*words(lm, data, out, max_train_steps=2))
    file = out / "checkpoint-2" / "trainable.safetensors"
    held = load_file(file)
    name = min(held)
    held[name].view(-1)[0] = math.inf
    save_file(held, file)
    seal(file.parent, read_state(file.parent))  # as if the weights had been so when they were saved
    again = words(lm, data, out, max_train_steps=3, resume_from_checkpoint="checkpoint-2")
    assert run_command("train_text_dpo", again) == 2


def test_a_step_is_judged_by_its_losses_and_its_gradient():
    accelerator = Accelerator(cpu=True)
    for values, norm, finite in (
        ([1.0, 2.0], 3.0, True),
        ([1.0, math.nan], 3.0, False),
        ([-math.inf, 1.0], 0.0, False),
        ([1.0], math.inf, False),
    ):
        losses = torch.tensor(values)
        assert bool(all_finite(losses, torch.tensor(norm), accelerator)) == finite


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("finite", [True, False])
def test_a_step_is_taken_where_its_numbers_are_finite(kind, finite):
    weight = nn.Parameter(torch.tensor([1.0]))
    fused = {"fused": True} if kind is torch.optim.AdamW else {}
    optimizer = Accelerator(cpu=True).prepare(kind([weight], lr=0.5, **fused))
    weight.grad = torch.tensor([1.0])
    take_step(optimizer, torch.tensor(finite))
    assert (weight.item() != 1.0) == finite


def test_metrics_that_json_cannot_hold_come_back_as_they_were(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    records = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": math.inf, "grad_norm": -math.inf}]
    journal.append(records)
    assert journal.read() == records
    journal.append([{"step": 3, "loss": math.nan}])
    journal.keep_until(3)
    assert math.isnan(journal.last()["loss"])
    assert lines(tmp_path)[1] == {
        "step": 2,
        "loss": None,
        "grad_norm": None,
        "not_finite": {"loss": "inf", "grad_norm": "-inf"},
    }
