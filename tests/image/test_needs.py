"""What the start lines say of memory and disk: counted, and the arithmetic of the page."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diffdpo.image import needs
from diffdpo.image.backbones import load_backbone
from diffdpo.image.settings import ImageSettings
from tests.commands.image_runs import flags, train
from tests.families import factory

GIB = 2**30


def test_the_size_is_that_of_the_tensors():
    network = nn.Sequential(nn.Linear(10, 20).bfloat16(), nn.BatchNorm1d(20))
    own = 2 * (10 * 20 + 20) + 4 * (4 * 20) + 8  # and the number of batches, an int64
    assert needs.size([network]) == own
    assert needs.size([network, network]) == own  # what is shared is counted once


def test_the_state_of_optimizers():
    assert needs.state_size(1000, ImageSettings()) == 12_000
    assert needs.state_size(1000, ImageSettings(use_8bit_adam=True)) == 6_000
    assert needs.state_size(1000, ImageSettings(use_adafactor=True)) == 4_000


def flux(blocks=(19, 38), heads=24):
    network = nn.Module()
    network.transformer_blocks = nn.ModuleList(nn.Identity() for _ in range(blocks[0]))
    network.single_transformer_blocks = nn.ModuleList(nn.Identity() for _ in range(blocks[1]))
    network.config = {"num_attention_heads": heads, "attention_head_dim": 128}
    return network


def test_activations_are_those_of_the_table():
    """Flux.1-dev at 1024 pixels: 57 blocks of 4096 + 512 tokens and 3072 channels, in bfloat16."""
    backbone = SimpleNamespace(
        tokens=lambda resolution: (resolution // 16) ** 2, longest_prompt=512
    )
    settings = ImageSettings(
        resolution=1024, mixed_precision="bf16", gradient_checkpointing=True, rank=2
    )
    state = 4608 * 3072 * 2 * 2
    assert needs.activations(backbone, flux(), settings) == (57 + 12) * state
    assert 57 * state / GIB == pytest.approx(3.0, abs=0.02)  # docs/memory.md
    live = ImageSettings(resolution=1024, mixed_precision="bf16")
    assert needs.activations(backbone, flux(), live) == 57 * 12 * state
    draws = ImageSettings(resolution=1024, gradient_checkpointing=True, timesteps_per_pair=3)
    assert needs.activations(backbone, flux(), draws) == 3 * 2 * (57 + 12) * state


@pytest.mark.parametrize(
    ("family", "told"), [("StableDiffusionPipeline", False), ("FluxPipeline", True)]
)
def test_the_lines_at_the_start(family, told, pairs, tmp_path, capsys):
    folder, pipeline = tmp_path / "model", factory(family).tiny()
    pipeline.save_pretrained(folder)
    cache = {"cache_latents": True, "precompute_dir": tmp_path / "cache", "resolution": 32}
    train(*flags(folder, pairs, tmp_path / "run", max_train_steps=1, beta_dpo=2000, **cache))
    said = capsys.readouterr().out
    (line,) = [one for one in said.splitlines() if one.startswith("memory ")]
    weights = float(re.search(r"weights ([\d.e-]+)", line)[1]) * GIB
    own = needs.size([load_backbone(str(folder)).network])
    assert own < weights < 1.6 * own  # with adapters
    assert ("activations of a pair about" in line) == told
    assert "encoders" not in line
    computing = [one.split()[0] for one in said.splitlines() if " computing " in one]
    assert computing == ["prompts", "latents"]
    (loss,) = [one for one in said.splitlines() if one.startswith("loss ")]
    assert ("nats at t = 1/2" in loss) == told
    assert ("guidance 1, an input of the network" in said) == told
    if told:
        cells = 16 * 16 * 16
        assert f"= {2000 / (2 * cells):.3g} nats" in loss
        assert re.search(r"^t +uniform in 0 to 1, shift [\d.]+; weight constant", said, re.M)


def test_the_disk_of_tables_is_that_of_their_tensors():
    backbone = SimpleNamespace(
        latent_shape=lambda resolution: (4, resolution // 8, resolution // 8)
    )
    settings = ImageSettings(resolution=64)
    stored = 10 * torch.zeros(2, 2, 2, 4, 8, 8).bfloat16()  # images, flips, mean and deviation
    assert needs.latents_size(backbone, settings, 10, 2) == 10 * needs.size_of(stored)
    bare = ImageSettings(resolution=64, no_hflip=True)
    assert needs.latents_size(backbone, bare, 10, 4) == 10 * needs.size_of(stored)
