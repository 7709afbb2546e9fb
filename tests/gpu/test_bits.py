"""Frozen weights in few bits under a LoRA, by the libraries that compute with them on a card."""

from __future__ import annotations

import math

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.commands import image_runs
from tests.text import runs

pytestmark = pytest.mark.gpu

TEXT = {
    "nf4": {"load_in_4bit": True},
    "fp4, nested": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "fp4",
        "use_bnb_nested_quant": True,
    },
    "nf4 in bfloat16": {"load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
    "llm_int8": {"load_in_8bit": True},
    "int8": {"base_precision": "int8"},
    "fp8": {"base_precision": "fp8"},
}


def needed(name):
    """Skips where a precision's library is not there."""
    pytest.importorskip("bitsandbytes" if "load" in name or "nf4" in name else "torchao")


def starts_as_its_reference(found):
    """Whether the first loss is ln 2, and a later one is not."""
    assert found[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert any(abs(line["loss"] - math.log(2)) > 1e-5 for line in found[1:])
    assert all(math.isfinite(line["loss"]) for line in found)


@pytest.mark.parametrize("changes", TEXT.values(), ids=TEXT)
def test_a_language_model_in_few_bits_trains_resumes_and_is_merged(
    card, lm, data, tmp_path, changes
):
    needed(" ".join([*changes, *map(str, changes.values())]))
    words = {"use_peft": True, "lora_r": 4, "logging_steps": 1, "checkpointing_steps": 2}
    run = tmp_path / "run"
    runs.train(*runs.flags(lm, data["pairs"], run, **words, **changes))
    starts_as_its_reference(runs.metrics(run))
    more = words | changes | {"max_train_steps": 6, "resume_from_checkpoint": "latest"}
    runs.train(*runs.flags(lm, data["pairs"], run, **more))
    assert [line["step"] for line in runs.metrics(run)] == [1, 2, 3, 4, 5, 6]
    ids = torch.arange(9)[None] * 7
    base = AutoModelForCausalLM.from_pretrained(lm, dtype=torch.float32).eval()
    before = base(ids).logits
    merged = PeftModel.from_pretrained(base, run).merge_and_unload()
    assert 0 < (merged(ids).logits - before).norm() < before.norm()


@pytest.mark.parametrize("bits", ["nf4", "int8", "fp8", "fp8_torchao"])
def test_a_unet_in_few_bits_trains(card, models, pairs, tmp_path, bits):
    needed(bits)
    words = image_runs.flags(models(), pairs, tmp_path / "run", base_precision=bits)
    image_runs.train(*words)
    starts_as_its_reference(image_runs.metrics(tmp_path / "run"))
