"""Checkpoints as results: the files and bits of a run that ends there, and the same figures."""

import json

import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from diffdpo.cli import run_command
from diffdpo.config import parse
from diffdpo.engine import lock
from diffdpo.image.backbones import load_backbone
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.flags.adapter_settings import AdapterSettings
from diffdpo.image.model.policy import load_policy
from tests.commands.image_runs import flags, metrics, same, train, weights
from tests.commands.test_evaluate import judge
from tests.conftest import script
from tests.image.test_lora_files import in_train_mode, output
from tests.processes import run_forked
from tests.text import runs

pytestmark = pytest.mark.usefixtures("no_plots")
KOHYA = "pytorch_lora_weights_kohya.safetensors"
FOUR = {"max_train_steps": 4, "checkpointing_steps": 1, "learning_rate": 1e-2}


def export(*words):
    return run_command("export", [str(word) for word in words])


@pytest.fixture(scope="module")
def lora(models, pairs, tmp_path_factory):
    """A finished run of a LoRA whose exported weights are a moving average."""
    out = tmp_path_factory.mktemp("lora") / "run"
    train(*flags(models(), pairs, out, ema_decay=0.5, lora_alpha=2, **FOUR))
    return out


def trained(checkpoint):
    return load_file(checkpoint / "trainable.safetensors")


def averages(checkpoint):
    found = load_file(checkpoint / "averages.safetensors")
    return {name.removeprefix("ema."): value for name, value in found.items()}


def test_the_last_checkpoint_is_the_result(lora, tmp_path):
    assert export(lora, "--step", 4, "--output_dir", tmp_path / "out") == 0
    for name in ("pytorch_lora_weights.safetensors", KOHYA):
        assert (tmp_path / "out" / name).read_bytes() == (lora / name).read_bytes()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"README.md", "config.yaml", "trained_on.safetensors"}
    saved = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert (saved["rank"], saved["output_dir"]) == (4, str(tmp_path / "out"))


def test_an_earlier_one_is_the_result_of_a_shorter_run(lora, models, pairs, tmp_path):
    assert export("--step", 2, lora) == 0
    words = {**FOUR, "max_train_steps": 2, "ema_decay": 0.5, "lora_alpha": 2}
    train(*flags(models(), pairs, tmp_path / "short", **words))
    assert same(weights(lora / "export-2"), weights(tmp_path / "short"))
    assert not same(weights(lora / "export-2"), weights(lora))


def test_a_full_run_gives_a_pipeline_while_it_goes_on(models, pairs, tmp_path):
    out = tmp_path / "run"
    train(*flags(models(), pairs, out, rank=None, **{**FOUR, "max_train_steps": 2}))
    lock.take(out)  # as the run does as long as it trains
    try:
        done = run_forked(script("export", out, "--step", "1"))
    finally:
        lock.release()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"result       {out / 'export-1'}"
    written = UNet2DConditionModel.from_pretrained(out / "export-1" / "unet").state_dict()
    kept = trained(out / "checkpoint-1")
    assert all(torch.equal(written[name], value) for name, value in kept.items())
    assert (out / "export-1" / "model_index.json").is_file()


def test_averages_follow_the_weights_and_are_what_is_exported(lora):
    mean = averages(lora / "checkpoint-1")
    for step in (2, 3, 4):
        weight = trained(lora / f"checkpoint-{step}")
        mean = {name: value.lerp(weight[name], 0.5) for name, value in mean.items()}
        assert same(mean, averages(lora / f"checkpoint-{step}"))
    exported = weights(lora)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    found = exported[f"unet.{layer}.lora.up.weight"]
    assert torch.equal(found, mean[f"{layer}.lora_B.default.weight"])
    assert not torch.equal(found, weight[f"{layer}.lora_B.default.weight"])


def test_a_resumed_average_is_that_of_the_unbroken_run(lora, models, pairs, tmp_path):
    words = {**FOUR, "ema_decay": 0.5, "lora_alpha": 2}
    out = tmp_path / "run"
    train(*flags(models(), pairs, out, **{**words, "max_train_steps": 2}))
    (out / "pytorch_lora_weights.safetensors").unlink()
    train(*flags(models(), pairs, out, resume_from_checkpoint="latest", **words))
    assert metrics(out) == metrics(lora)
    assert same(weights(out), weights(lora))
    assert same(averages(out / "checkpoint-4"), averages(lora / "checkpoint-4"))


QUICK = ["--reward", "colourfulness", "--implicit_draws", "1", "--num_prompts", "2"]


def figures(policy, out):
    found = judge(policy, out, *QUICK)
    return {name: found[name] for name in ("win_rate", "rewards", "implicit_accuracy")}


def test_a_checkpoint_is_judged_as_what_it_would_export(lora, tmp_path):
    """By its folder alone: model, data, rank and layers are the run's."""
    assert figures(lora / "checkpoint-4", tmp_path / "a") == figures(lora, tmp_path / "b")
    page = (tmp_path / "a" / "report.html").read_text()
    assert "lora_alpha: 2" in page  # the settings of its run


def test_an_earlier_checkpoint_is_another_policy(lora, models, tmp_path):
    export(lora, "--step", 1, "--output_dir", tmp_path / "early")
    found = []
    for policy in (lora / "checkpoint-1", tmp_path / "early", lora):
        backbone = load_backbone(str(models()))
        network, reference = load_policy(backbone, str(policy))
        found.append(output(backbone))
        with reference.network(network):
            assert torch.equal(
                output(backbone), output(in_train_mode(load_backbone(str(models()))))
            )
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_checkpoint_of_a_continued_lora_is_judged_against_its_start(
    lora, models, pairs, tmp_path
):
    out = tmp_path / "run"
    train(*flags(models(), pairs, out, rank=None, init_lora=lora, max_train_steps=1))
    settings, _ = parse(EvaluateSettings, ["--policy", str(out / "checkpoint-1")])
    assert (settings.init_lora, settings.reference) == (str(lora), "start")
    first, backbone = load_backbone(str(models())), load_backbone(str(models()))
    load_policy(first, str(lora))
    start = AdapterSettings(init_lora=str(lora))
    network, reference = load_policy(backbone, str(out / "checkpoint-1"), start)
    assert not torch.equal(output(backbone), output(first))
    with reference.network(network):
        assert torch.equal(output(backbone), output(first))


@pytest.mark.parametrize("lora_r", [2, None])
def test_text_checkpoints_are_written_out(lm, data, tmp_path, lora_r):
    out = tmp_path / "run"
    adapters = {"use_peft": True, "lora_r": lora_r} if lora_r else {}
    words = runs.flags(lm, data["pairs"], out, max_train_steps=2, checkpointing_steps=1, **adapters)
    runs.train(*words)
    for step in (1, 2):
        assert export(out, "--step", step) == 0
    name = "adapter_model.safetensors" if lora_r else "model.safetensors"
    assert same(load_file(out / "export-2" / name), load_file(out / name))
    assert not same(load_file(out / "export-1" / name), load_file(out / name))
    AutoModelForCausalLM.from_pretrained(out / "export-1")


def test_the_record_of_the_step_is_in_the_card(lora, tmp_path):
    export(lora, "--step", 3, "--output_dir", tmp_path / "out")
    loss = next(line for line in metrics(lora) if line["step"] == 3)["loss"]
    assert f"Last logged step: step 3, loss {loss:.4g}" in (tmp_path / "out/README.md").read_text()
    said = json.loads((lora / "checkpoint-3" / "state.json").read_text())
    assert said["settings"]["ema_decay"] == 0.5
