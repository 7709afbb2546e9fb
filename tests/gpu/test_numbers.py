"""Numbers on a card: the same after a resume, sound in float16, untouched by checkpointing."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from tests.commands.image_runs import flags, metrics, train
from tests.text import runs

pytestmark = pytest.mark.gpu

OVERFLOW = """
import torch
import torch.nn.functional as F

seen = [0]

def broken(chosen_B, rejected_B, *, beta):
    seen[0] += chosen_B.requires_grad  # a loss is tried once before training, without gradient
    loss_B = -F.logsigmoid(beta * (chosen_B - rejected_B))
    if seen[0] != 12 or not chosen_B.requires_grad:
        return loss_B
    return (loss_B - loss_B.detach()) * 1e30 * 1e10 + loss_B.detach()
"""
# Late enough: from 65,536 on float16's scale is halved in a step each until no gradient overflows.
STEPS, BAD = 20, 12


def weights(out, step):
    """Everything that a checkpoint says of a run."""
    return {
        f"{part} {name}": value
        for part in ("trainable", "optimizer")
        for name, value in load_file(out / f"checkpoint-{step}" / f"{part}.safetensors").items()
    }


def differing(a, b):
    """The names of tensors that differ in a bit."""
    assert set(a) == set(b)
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_resumed_run_has_the_bits_of_the_unbroken_one(
    device, models, pairs, lm, data, tmp_path, modality
):
    def run(out, **changes):
        options = {"deterministic": True, "checkpointing_steps": 3, "mixed_precision": "bf16"}
        options |= {"max_train_steps": 6, "rank" if modality == "image" else "lora_r": 4}
        if modality == "image":
            return train(*flags(models(), pairs, out, **options | changes))
        options |= {"use_peft": True, "lr_scheduler": "constant"}
        return runs.train(*runs.flags(lm, data["pairs"], out, **options | changes))

    run(tmp_path / "whole")
    run(tmp_path / "broken", max_train_steps=3)
    run(tmp_path / "broken", resume_from_checkpoint="latest")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "broken")
    found = [weights(tmp_path / name, 6) for name in ("whole", "broken")]
    assert differing(*found) == []


def test_an_overflow_in_float16_is_a_step_not_taken_and_no_more(
    device, models, pairs, tmp_path, monkeypatch
):
    """The scale is lowered, weights and moments stay, and the steps after it go on."""
    from diffdpo.engine.trainer import Trainer

    scales, moved, step = [], [], Trainer.step

    def watched(trainer, *args, **options):
        before = [weight.detach().clone() for weight in trainer.parameters]
        result = step(trainer, *args, **options)
        same = all(map(torch.equal, before, [w.detach() for w in trainer.parameters]))
        moved.append(not same)
        if trainer.accelerator.scaler is not None:
            scales.append(trainer.accelerator.scaler.get_scale())
        return result

    monkeypatch.setattr(Trainer, "step", watched)
    (tmp_path / "own.py").write_text(OVERFLOW)
    loss = {"loss_type": f"{tmp_path / 'own.py'}:broken", "mixed_precision": "fp16"}
    train(*flags(models(), pairs, tmp_path / "run", max_train_steps=STEPS, **loss))
    found = metrics(tmp_path / "run")
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    assert found[BAD - 1]["grad_norm"] is None
    assert all(math.isfinite(line["loss"]) for line in found)
    assert not moved[BAD - 1]
    assert all(moved[BAD:])
    if device.type == "cuda":
        assert scales[BAD - 1] < scales[BAD - 2]


@pytest.mark.parametrize("modality", ["image", "text"])
def test_gradient_checkpointing_under_a_lora_changes_no_loss(
    device, models, pairs, lm, data, tmp_path, modality
):
    for name, more in (("plain", {}), ("again", {"gradient_checkpointing": True})):
        more |= {"deterministic": True, "max_train_steps": 3}
        if modality == "image":
            train(*flags(models(), pairs, tmp_path / name, **more))
        else:
            lora = {"use_peft": True, "lora_r": 4}
            runs.train(*runs.flags(lm, data["pairs"], tmp_path / name, **lora, **more))
    plain, again = (metrics(tmp_path / name) for name in ("plain", "again"))
    assert [line["loss"] for line in again] == pytest.approx([line["loss"] for line in plain])
    assert all(line["grad_norm"] > 0 for line in again)
