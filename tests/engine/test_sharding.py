"""Weights in shares over two processes (FSDP2 over gloo), against one process that does the same
micro-batches."""

import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils._pytree import tree_flatten, tree_unflatten

from diffdpo.engine import trainer
from diffdpo.image.backbones.offload import blocks_of
from diffdpo.text.scoring.layout import laid_out
from tests.commands import image_runs
from tests.conftest import script
from tests.families import factory
from tests.processes import run_two
from tests.text import runs
from tests.text.factory import pair_rows, write_jsonl
from tests.text.test_network import prepared

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
CUT = {"train_batch_size": 2, "gradient_accumulation_steps": 2}  # what two processes do at once
ONCE = {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}  # the first process alone reads the model
NO_CLIP = {"max_grad_norm": "inf"}  # the norm of shares is rounded otherwise than that of the whole


def in_shares(command, *words, number=2, **environment):
    """A run in shares to its end; what it printed."""
    done = run_two(script(command, *words), number, **FSDP2, **environment)
    assert done.returncode == 0, done.stderr
    assert f"FSDP2: weights in shares over {number} processes" in done.stdout
    return done.stdout


def losses(lines):
    return [line["loss"] for line in lines]


def same(one, two):
    """Whether two files hold the same tensors under the same names."""
    one, two = load_file(one), load_file(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("peft", "precision", "loading"),
    [
        (None, "no", ONCE),
        (True, "bf16", {}),
        pytest.param(True, "bf16", ONCE, marks=pytest.mark.slow),
        pytest.param(True, "no", {}, marks=pytest.mark.slow),
        pytest.param(None, "bf16", {}, marks=pytest.mark.slow),
        pytest.param(True, "int8", ONCE, marks=pytest.mark.slow),
    ],
)
def test_text_in_shares_is_text_on_one_process(lm, data, tmp_path, peft, precision, loading):
    """Of a LoRA of rank 1, one process's share of a matrix is empty."""
    how = "base_precision" if precision == "int8" else "mixed_precision"
    changes = {"use_peft": peft, "lora_r": 1 if peft else None, how: precision}
    agrees(lm, data, tmp_path, loading, **changes)


@pytest.mark.slow
def test_modules_that_are_trained_whole_beside_a_lora_are_in_shares_as_well(lm, data, tmp_path):
    saved = {"lora_modules_to_save": ["embed_tokens", "lm_head"]}
    agrees(lm, data, tmp_path, {}, use_peft=True, lora_r=2, **saved)
    found = load_file(tmp_path / "two" / "adapter_model.safetensors")
    assert {"embed_tokens", "lm_head"} < {part for name in found for part in name.split(".")}


def agrees(lm, data, tmp_path, loading, **changes):
    """Asserts that a run of two processes in shares is that of one process."""
    changes |= {"max_train_steps": 3, **NO_CLIP}
    peft = changes.get("use_peft")
    words = runs.flags(lm, data["pairs"], tmp_path / "two", train_batch_size=2, **changes)
    in_shares("train_text_dpo", *words, **loading)
    runs.train(*runs.flags(lm, data["pairs"], tmp_path / "one", **CUT, **changes))
    one, two = runs.metrics(tmp_path / "one"), runs.metrics(tmp_path / "two")
    assert one[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert losses(two) == losses(one)
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-6, abs=1e-7)
    result = "adapter_model.safetensors" if peft else "model.safetensors"
    for part in ("trainable", "optimizer"):
        name = f"checkpoint-3/{part}.safetensors"
        assert same(tmp_path / "one" / name, tmp_path / "two" / name)
    assert same(tmp_path / "one" / result, tmp_path / "two" / result)


@pytest.mark.parametrize("peft", [None, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_in_shares_is_resumed_by_two_processes_or_by_one(lm, data, tmp_path, peft):
    """By two to the same bits. Its moving average and its answers are those of all shares."""
    changes = {"use_peft": peft, "checkpointing_steps": 2, "max_train_steps": 4, "ema_decay": 0.5}
    held_out = write_jsonl(tmp_path / "held_out.jsonl", pair_rows(15)[12:])
    asked = {"eval_dataset_name": held_out, "dataset_test_split": "train", "eval_steps": 4}
    asked |= {"eval_strategy": "steps", "eval_generations": 2, "max_new_tokens": 3}

    def words(name, **more):
        return runs.flags(lm, data["pairs"], tmp_path / name, **changes, **asked, **more)

    in_shares("train_text_dpo", *words("straight", train_batch_size=2))
    for name in ("two", "one"):
        shutil.copytree(tmp_path / "straight/checkpoint-2", tmp_path / name / "checkpoint-2")
        shutil.copy(tmp_path / "straight/metrics.jsonl", tmp_path / name)
    again = {"resume_from_checkpoint": "latest"}
    in_shares("train_text_dpo", *words("two", train_batch_size=2, **again))
    runs.train(*words("one", **CUT, **again))
    straight = tmp_path / "straight"
    result = "adapter_model" if peft else "model"
    for name in (result, "checkpoint-4/trainable", "checkpoint-4/averages"):
        assert same(straight / f"{name}.safetensors", tmp_path / "two" / f"{name}.safetensors")
    if not peft:
        means = load_file(straight / "checkpoint-4/averages.safetensors")
        for name, weight in load_file(straight / "model.safetensors").items():
            assert torch.equal(weight, means[f"ema.network.{name}"])
    lines = runs.metrics(straight)
    assert runs.metrics(tmp_path / "two") == lines
    for a, b in zip(lines, runs.metrics(tmp_path / "one"), strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-5)
    answers = [(tmp_path / name / "samples/step-4.txt").read_text() for name in ("two", "one")]
    assert "[reference]" in answers[0]
    assert "[policy, step 4]" in answers[0]
    assert answers[0] == answers[1] == (straight / "samples/step-4.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("peft", [None, True])
def test_a_run_in_shares_is_resumed_by_four_processes(lm, data, tmp_path, peft):
    changes = {"use_peft": peft, "checkpointing_steps": 2}

    def words(name, **more):
        return runs.flags(lm, data["pairs"], tmp_path / name, **changes, **more)

    in_shares("train_text_dpo", *words("two", train_batch_size=2))
    shutil.copytree(tmp_path / "two/checkpoint-2", tmp_path / "four/checkpoint-2")
    shutil.copy(tmp_path / "two/metrics.jsonl", tmp_path / "four")
    again = {"train_batch_size": 1, "resume_from_checkpoint": "latest"}
    in_shares("train_text_dpo", *words("four", **again), number=4)
    lines = runs.metrics(tmp_path / "two")
    for a, b in zip(lines, runs.metrics(tmp_path / "four"), strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "changes"),
    [
        ("labels", {"loss_type": "kto"}),
        ("pairs", {"loss_type": "orpo"}),
        ("pairs", {"precompute_ref_log_probs": True}),
    ],
    ids=["kto", "orpo", "stored"],
)
def test_what_reads_the_whole_step_or_stored_scores_is_the_same(lm, data, tmp_path, rows, changes):
    changes = {**changes, "max_train_steps": 2, "precompute_dir": tmp_path / "tables", **NO_CLIP}
    words = runs.flags(lm, data[rows], tmp_path / "two", train_batch_size=2, **changes)
    in_shares("train_text_dpo", *words)
    runs.train(*runs.flags(lm, data[rows], tmp_path / "one", **CUT, **changes))
    for a, b in zip(runs.metrics(tmp_path / "one"), runs.metrics(tmp_path / "two"), strict=True):
        assert b == pytest.approx(a, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_pictures_whose_reference_is_the_model_that_other_weights_depart_from(
    models, pairs, tmp_path, sums_as_in_shares
):
    """Two networks that differ, each read by the first process alone."""
    first = {"rank": None, "max_train_steps": 1, "learning_rate": 1e-3}
    image_runs.train(*image_runs.flags(models(), pairs, tmp_path / "first", **first))
    changes = {"rank": None, "unet_init": tmp_path / "first", "reference": "base", **NO_CLIP}
    one, two = of_one_and_two(models(), pairs, tmp_path, ONCE, **changes)
    assert losses(two) == losses(one)
    assert one[0]["loss"] != pytest.approx(math.log(2), abs=1e-6)
    assert same(*(tmp_path / name / UNET for name in ("one", "two")))


class Nothing(torch.autograd.Function):
    """Its inputs as they are: but PyTorch adds up what comes back of them before it goes on."""

    @staticmethod
    def forward(ctx, *inputs):
        return inputs

    @staticmethod
    def backward(ctx, *gradients):
        return gradients


def with_nothing_before(module, args, kwargs):
    leaves, form = tree_flatten((args, kwargs))
    where = [n for n, x in enumerate(leaves) if torch.is_tensor(x) and x.requires_grad]
    if where and torch.is_grad_enabled():
        for n, x in zip(where, Nothing.apply(*(leaves[n] for n in where)), strict=True):
            leaves[n] = x
    return tree_unflatten(leaves, form)


@pytest.fixture
def sums_as_in_shares(monkeypatch):
    """The one thing in which FSDP2 differs: the order in which a block's gradients are added to
    those of what goes past it."""
    init = trainer.Trainer.__init__

    def made(self, accelerator, settings, model, *rest):
        for block in blocks_of(model):
            block.register_forward_pre_hook(with_nothing_before, with_kwargs=True)
        init(self, accelerator, settings, model, *rest)

    monkeypatch.setattr(trainer.Trainer, "__init__", made)


def of_one_and_two(model, pairs, tmp_path, loading, **changes):
    """The metrics of two steps on pictures, by one process and by two in shares."""
    changes = {"max_train_steps": 2, **changes}
    words = image_runs.flags(model, pairs, tmp_path / "two", train_batch_size=2, **changes)
    in_shares("train_diffusion_dpo", *words, **loading)
    image_runs.train(*image_runs.flags(model, pairs, tmp_path / "one", **CUT, **changes))
    return [image_runs.metrics(tmp_path / name) for name in ("one", "two")]


MOVING = {"reference": "ema", "reference_decay": 0.5}


@pytest.mark.parametrize(
    ("rank", "precision", "loading", "more"),
    [
        (4, "bf16", ONCE, {}),
        pytest.param(4, "no", {}, {}, marks=pytest.mark.slow),
        pytest.param(None, "bf16", {}, {}, marks=pytest.mark.slow),
        pytest.param(None, "no", ONCE, {}, marks=pytest.mark.slow),
        pytest.param(None, "no", ONCE, MOVING, marks=pytest.mark.slow),
        pytest.param(4, "bf16", ONCE, {"base_precision": "int8"}, marks=pytest.mark.slow),
        pytest.param(4, "bf16", {}, {"base_precision": "fp8_torchao"}, marks=pytest.mark.slow),
    ],
)
def test_pictures_in_shares_are_pictures_on_one_process(
    models, pairs, tmp_path, rank, precision, loading, more, sums_as_in_shares
):
    """Full and LoRA; with a reference that moves; on a base that every process holds in few
    bits."""
    changes = {"rank": rank, "mixed_precision": precision, "gradient_checkpointing": True}
    one, two = of_one_and_two(models(), pairs, tmp_path, loading, **changes, **NO_CLIP, **more)
    assert one[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert losses(two) == losses(one)
    folders = [tmp_path / name for name in ("one", "two")]
    assert same(*(folder / "checkpoint-2/trainable.safetensors" for folder in folders))
    result = "pytorch_lora_weights.safetensors" if rank else UNET
    assert same(*(folder / result for folder in folders))


UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.slow
def test_a_transformer_in_shares_and_the_pictures_of_its_validation(pairs, tmp_path):
    factory("FluxPipeline").tiny().save_pretrained(tmp_path / "flux")
    changes = {"rank": 4, "resolution": 32, **NO_CLIP}
    changes |= {"run_validation": True, "validation_steps": 2, "num_inference_steps": 2}
    changes |= {"validation_prompts": ["a"]}
    one, two = of_one_and_two(tmp_path / "flux", pairs, tmp_path, {}, **changes)
    assert one[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    pictures = [Image.open(tmp_path / name / "validation/step-2.png") for name in ("one", "two")]
    apart = np.abs(np.subtract(*(np.asarray(picture, dtype=int) for picture in pictures)))
    assert apart.max() <= 2


def test_filling_passes_change_nothing(lm):
    """Ranks run their layers as often as the one with the most passes."""
    found = []
    for more in (0, 2):
        scorer, _ = prepared(lm)
        scorer.passes = lambda count, more=more: count + more
        column_PK = scorer(laid_out(torch.arange(7, 19), [(5, 4, 3)], scorer.rule))
        column_PK[:, 0].sum().backward()
        found.append([column_PK.detach(), *(w.grad for w in scorer.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
