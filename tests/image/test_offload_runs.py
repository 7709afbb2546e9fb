"""Frozen weights in host memory: with other settings, through the command, on a GPU."""

import gc
import math
import re

import pytest
import torch
from peft.utils import get_peft_model_state_dict

from diffdpo.cache.keys import network_digest
from diffdpo.engine.finite import plain_tensors
from diffdpo.image import needs
from diffdpo.image.backbones import load_backbone, offload
from tests.commands.image_runs import flags, metrics, same, train, weights
from tests.conftest import script
from tests.families.work import batch_of, task_of
from tests.image.test_offload import CPU, META, assert_same, opened, steps, trained_in
from tests.processes import run_two

FLUX = "FluxPipeline"


@pytest.fixture(scope="module")
def flux(tiny_models):
    return tiny_models(FLUX)


@pytest.mark.parametrize(
    "changes",
    [
        {"base_precision": "fp8"},
        {"base_precision": "int8"},
        {"use_dora": True},
        pytest.param({"base_precision": "bf16"}, marks=pytest.mark.slow),
        pytest.param({"base_precision": "fp8_torchao"}, marks=pytest.mark.slow),
        pytest.param({"reference": "ema"}, marks=pytest.mark.slow),
        pytest.param({"gradient_checkpointing": True}, marks=pytest.mark.slow),
    ],
    ids=lambda changes: "-".join(map(str, *changes.items())),
)
def test_with_other_settings_too(flux, changes):
    half = "base_precision" in changes
    dtype = torch.bfloat16 if half else torch.float32
    plain, other = (opened(flux, FLUX, dtype, offload=on, **changes) for on in (False, True))
    assert network_digest(plain[2]) == network_digest(other[2])  # stored scores are shared
    names = [list(network.state_dict()) for _, _, network in (plain, other)]
    assert names[0] == names[1]
    assert_same(steps(plain, FLUX, half), steps(other, FLUX, half))
    assert not other[2].is_gradient_checkpointing
    assert network_digest(plain[2]) == network_digest(other[2])


def test_a_lora_is_trained_on(flux, tmp_path):
    """Its first state, the reference, is a frozen adapter, which stays on the device."""
    settings, backbone, network = opened(flux, FLUX)
    steps((settings, backbone, network), FLUX)
    backbone.pipeline_class.save_lora_weights(
        tmp_path, transformer_lora_layers=get_peft_model_state_dict(network)
    )
    plain, other = (opened(flux, FLUX, offload=on, init_lora=str(tmp_path)) for on in (False, True))
    hosts = [id(weight) for weights in offload.host_weights(other[2]) for weight in weights]
    small = [weight for name, weight in other[2].named_parameters() if ".reference." in name]
    assert small
    assert not {id(weight) for weight in small} & set(hosts)
    assert_same(steps(plain, FLUX), steps(other, FLUX))


def test_a_move_leaves_frozen_weights_where_they_are(flux):
    """As accelerate moves a network when it prepares it, and a pipeline its parts."""
    _, _, network = opened(flux, FLUX, offload=True)
    hosts = [weight for weights in offload.host_weights(network) for weight in weights]
    before = [weight.clone() for weight in hosts]
    assert network.to(META) is network
    assert {weight.device for weight in trained_in(network).values()} == {META}
    now = [weight for weights in offload.host_weights(network) for weight in weights]
    for old, new, value in zip(hosts, now, before, strict=True):
        assert old is new
        assert torch.equal(new, value)
    assert offload.host_weights(opened(flux, FLUX)[2]) == []


def test_a_run_is_that_without_it(models, pairs, tmp_path, capsys):
    """Files, resumed runs and start lines, through the command."""
    more = {"checkpointing_steps": 2, "gradient_checkpointing": True, "max_train_steps": 3}
    train(*flags(models(), pairs, tmp_path / "plain", **more))
    assert " on the host" not in capsys.readouterr().out
    more["max_train_steps"] = 2
    train(*flags(models(), pairs, tmp_path / "on", offload=True, **more))
    line = re.search("^memory +weights (.*) on the host and (.*) on the device, where (.*) of the"
                     " largest block", capsys.readouterr().out, re.MULTILINE)  # fmt: skip
    host, device, block = (float(line[n]) * 2**30 for n in (1, 2, 3))
    blocks = offload.blocks_of(load_backbone(str(models())).network)
    sizes = [needs.size([one]) for one in blocks]
    assert host == pytest.approx(sum(sizes), rel=0.06)  # two digits are said
    assert block == pytest.approx(max(sizes), rel=0.06)
    assert 0 < device < host
    more |= {"max_train_steps": 3, "resume_from_checkpoint": "latest"}
    train(*flags(models(), pairs, tmp_path / "on", offload=True, **more))
    assert metrics(tmp_path / "on") == metrics(tmp_path / "plain")
    assert metrics(tmp_path / "on")[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert same(weights(tmp_path / "on"), weights(tmp_path / "plain"))


@pytest.mark.slow
def test_two_processes_train_as_one_without_it(models, pairs, tmp_path):
    words = flags(models(), pairs, tmp_path / "on", max_train_steps=2, offload=True)
    done = run_two(script("train_diffusion_dpo", *words))
    assert done.returncode == 0, done.stderr
    cut = {"gradient_accumulation_steps": 2}  # in one process: the same pairs a step
    train(*flags(models(), pairs, tmp_path / "plain", max_train_steps=2, **cut))
    for one, two in zip(metrics(tmp_path / "plain"), metrics(tmp_path / "on"), strict=True):
        assert two == pytest.approx(one, rel=5e-3, abs=2e-3)  # rounding of errors, times beta 5000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: pinned memory and its own")
@pytest.mark.parametrize("changes", [{}, {"base_precision": "int8"}, {"base_precision": "fp8"}])
def test_on_a_gpu_the_host_keeps_the_weights(flux, changes):
    """Pinned, and the same numbers with less of the GPU's memory."""
    gpu, found = torch.device("cuda"), []
    for on in (False, True):
        settings, backbone, network = opened(
            flux, FLUX, torch.bfloat16, gpu, offload=on, gradient_checkpointing=True, **changes
        )
        task = task_of(backbone, settings)
        draw = task.draw(batch_of(task, FLUX))
        moved = {name: value.to(gpu) for name, value in draw.condition.items()}
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        with torch.autocast("cuda", torch.bfloat16):
            output = backbone.predict(network, draw.noisy.to(gpu), draw.timestep_N.to(gpu), moved)
        output.float().square().mean().backward()
        gradients = [w.grad.cpu() for w in trained_in(network).values() if w.grad is not None]
        found.append((output.detach().cpu(), gradients, held))
        for frozen in offload.host_weights(network):
            plain = [one for weight in frozen for _, one in plain_tensors("", weight)]
            assert all(one.is_pinned() and one.device == CPU for one in plain)
        del network, backbone, task, output
        gc.collect()
        torch.cuda.empty_cache()
    (plain, gradients, held), (other, against, less) = found
    assert torch.equal(plain, other)
    assert less < held
    assert all(torch.equal(a, b) for a, b in zip(gradients, against, strict=True))


@pytest.mark.parametrize("chunk", [2**30, 4096])
def test_weights_move_into_few_chunks(monkeypatch, chunk):
    monkeypatch.setattr(offload, "CHUNK", chunk)
    torch.manual_seed(0)
    shapes = [(3, 5), (7,), (40, 40), (), (64, 16), (0, 4)]
    plain = [torch.randn(shape) for shape in shapes]
    plain += [torch.randn(8, 6).bfloat16().t(), torch.randn(90, 90).to(torch.float8_e4m3fn)]
    before = [tensor.clone() for tensor in plain]
    offload.into_chunks(plain, pin=False)
    for tensor, old in zip(plain, before, strict=True):
        assert tensor.float().equal(old.float())
        assert (tensor.dtype, tensor.stride()) == (old.dtype, old.stride())
        assert tensor.data_ptr() % 64 == 0
    stores = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
              for tensor in plain}  # fmt: skip
    needed = sum(map(offload.room, plain))
    assert (len(stores) == 1) == (chunk > needed)
    assert needed <= sum(stores.values()) < 2 * needed + chunk * (chunk < needed)
