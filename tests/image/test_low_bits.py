"""Frozen weights in fewer bits: the policy starts as its reference, learns, and is saved."""

import math
import re

import pytest
import torch
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import load_file

from diffdpo.cache.keys import network_digest
from diffdpo.cli import main
from diffdpo.engine.finite import names_not_finite, plain_tensors
from diffdpo.errors import UserError
from diffdpo.image.backbones import load_backbone
from diffdpo.image.model.network import make_reference, make_trainable
from diffdpo.image.reading.inputs import open_pipeline
from diffdpo.image.settings import ImageSettings
from tests.commands.image_runs import flags, metrics, train
from tests.families import side
from tests.families.work import fresh, step_of, task_of

CPU = torch.device("cpu")
BF16 = torch.bfloat16
FEWER = ["fp8", "int8", "fp8_torchao"]
NETWORKS = ["StableDiffusionPipeline", "StableDiffusion3Pipeline", "FluxPipeline"]


@pytest.fixture(scope="module", params=NETWORKS)
def family(request):
    return request.param


def settings_of(folder, family, bits, **changes):
    return ImageSettings(
        pretrained_model_name_or_path=str(folder), dataset_name="given", resolution=side(family),
        rank=2, gradient_checkpointing=True, base_precision=bits, **changes,
    )  # fmt: skip


def opened(folder, family, bits, **changes):
    settings = settings_of(folder, family, bits, **changes)
    backbone = load_backbone(str(folder), dtype=BF16, base_precision=bits)
    return settings, backbone, make_trainable(backbone, settings, BF16, CPU).train()


def stored_bytes(network):
    """The size of the layers under adapters, which have no others beside them in this network."""
    layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
    weights = [one for layer in layers for _, one in
               plain_tensors("", layer.get_base_layer().weight)]  # fmt: skip
    return sum(weight.numel() * weight.element_size() for weight in weights)


@pytest.mark.parametrize("bits", FEWER)
def test_policy_and_reference_begin_as_one_and_part(folder, family, bits):
    settings, backbone, network = opened(folder, family, bits)
    reference, task = make_reference(network, settings), task_of(backbone, settings)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
    frozen = {n: w.detach().clone() for n, w in fixed(network)}
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    rewards = []
    for _ in range(2):
        reward_N, loss_B = step_of(task, reference, network, family)
        rewards.append((reward_N.tolist(), loss_B.item()))
        loss_B.mean().backward()
        gradients = [weight.grad for weight in trained if weight.grad is not None]
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients)
        optimizer.step()
        optimizer.zero_grad()
    assert rewards[0] == ([0.0, 0.0], pytest.approx(math.log(2), abs=1e-7))
    assert rewards[1][0] != [0.0, 0.0]
    now = dict(fixed(network))
    assert all(torch.equal(now[name], value) for name, value in frozen.items())


def fixed(network):
    frozen = ((n, w) for n, w in network.named_parameters() if not w.requires_grad)
    for name, weight in frozen:
        for each, plain in plain_tensors(name, weight):
            yield each, plain.view(torch.uint8) if plain.element_size() == 1 else plain


def test_the_bits_are_fewer_and_told_apart(folder, family):
    sizes, digests = {}, {}
    for bits in ("bf16", *FEWER):
        network = opened(folder, family, bits)[2]
        sizes[bits], digests[bits] = stored_bytes(network), network_digest(network)
    again = opened(folder, family, "int8")[2]
    assert network_digest(again) == digests["int8"]
    assert len(set(digests.values())) == 4
    # Some layers are left out, and rows have scales beside their values.
    assert all(sizes[bits] < 0.75 * sizes["bf16"] for bits in FEWER)


def test_adapters_are_not_rounded_to_the_bits_beneath(folder, family):
    """They begin as those on weights in bfloat16, bit for bit."""
    states = [
        {n: w for n, w in opened(folder, family, bits)[2].named_parameters() if ".lora_" in n}
        for bits in ("bf16", *FEWER)
    ]
    for other in states[1:]:
        assert states[0].keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    "bits", [pytest.param(bits, marks=[pytest.mark.slow] * (bits != "fp8")) for bits in FEWER]
)
@pytest.mark.usefixtures("no_plots")
def test_a_run_is_exported_and_judged(models, pairs, tmp_path, bits, capsys):
    out = tmp_path / "run"
    more = {"gradient_checkpointing": True, "max_train_steps": 2, "learning_rate": 1e-2}
    shared = {"reference_draws": 2, "cache_latents": True, "precompute_dir": tmp_path / "cache"}
    train(*flags(models(), pairs, out, base_precision=bits, **more))
    first, *_ = metrics(out)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert first["rewards/margins"] == 0
    weights = load_file(out / "pytorch_lora_weights.safetensors")
    assert all(".lora" in name and value.dtype == torch.float32 for name, value in weights.items())
    assert not (out / "unet").exists()
    assert "base_precision: " + bits in (out / "config.yaml").read_text()
    words = ["--policy", out, "--output_dir", tmp_path / "e", "--split", "train"]
    words += (
        "--num_prompts 2 --images_per_prompt 1 --num_inference_steps 2 --implicit_draws 2".split()
    )
    for given in ([], ["--base_precision", bits]):
        assert main(["evaluate", *map(str, [*words, *given])]) == 0
    if bits == "int8":
        train(*flags(models(), pairs, tmp_path / "a", base_precision=bits, **more, **shared))
        assert metrics(tmp_path / "a")[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
        capsys.readouterr()
        train(*flags(models(), pairs, tmp_path / "b", mixed_precision="bf16", **more, **shared))
        (line,) = re.findall("^reference +computing.*", capsys.readouterr().out, re.MULTILINE)
        assert "--base_precision" in line.split("those stored differ in")[1]


def test_mistakes_are_one_line(models, monkeypatch):
    import diffdpo.errors

    def lines(**changes):
        return ImageSettings(**changes).problems()

    assert any(
        "--base_precision int8 is about a LoRA" in one for one in lines(base_precision="int8")
    )
    assert any(
        "--base_precision fp8 computes in bf16; leave out --mixed_precision no" in one
        for one in lines(base_precision="fp8", rank=2, mixed_precision="no")
    )
    assert any("--use_dora" in one for one in lines(base_precision="int8", rank=2, use_dora=True))
    monkeypatch.setattr(diffdpo.errors, "find_spec", lambda name: None)
    for bits in ("int8", "fp8_torchao"):
        assert any("pip install 'diffdpo[lowbit]'" in one
                   for one in lines(base_precision=bits, rank=2))  # fmt: skip
    assert not any("lowbit" in one for one in lines(base_precision="fp8", rank=2))
    pipeline = fresh(models()).pipeline
    settings = ImageSettings(pretrained_model_name_or_path="(in memory)", dataset_name="given")
    with pytest.raises(UserError, match="this model is in memory in full"):
        open_pipeline(settings, pipeline=pipeline, base_precision="int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without one")
def test_nf4_asks_for_a_gpu(models, pairs, tmp_path, capsys):
    words = flags(models(), pairs, tmp_path / "run", base_precision="nf4")
    assert main(["train_diffusion_dpo", *map(str, words)]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "nf4" in one]
    assert "--base_precision nf4: needs a GPU" in line


def test_weights_beyond_float8_are_refused(models):
    backbone = load_backbone(str(models()), dtype=BF16)
    with torch.no_grad():
        for name, weight in backbone.network.named_parameters():
            if name.endswith("to_q.weight"):
                weight[0, 0] = 1000.0
    settings = ImageSettings(rank=2, base_precision="fp8")
    with pytest.raises(UserError, match="fp8: weights beyond its range"):
        make_trainable(backbone, settings, BF16, CPU)


def test_values_that_are_not_finite_are_found_in_quantised_tensors(folder, family):
    network = load_backbone(str(folder), dtype=BF16, base_precision="int8").network
    assert names_not_finite(network.state_dict().items()) == []
    name, weight = next((n, w) for n, w in network.named_parameters() if n.endswith("to_q.weight"))
    weight.scale.fill_(float("nan"))
    assert names_not_finite(network.state_dict().items()) == [f"{name}.scale"]
