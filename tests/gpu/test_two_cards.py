"""Two cards: DistributedDataParallel, with adapters off for the reference, and one that samples."""

from __future__ import annotations

import pytest
import torch

from tests.commands.image_runs import flags, metrics
from tests.conftest import run, script, two_processes
from tests.gpu.conftest import ON_CPU

pytestmark = pytest.mark.gpu


@pytest.fixture
def launch(device):
    """Two processes, a card each; on the CPU two of gloo."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device alone")
    cpu = {"ACCELERATE_USE_CPU": "true"} if ON_CPU and device.type == "cpu" else {}
    return lambda *words: run(two_processes("train_diffusion_dpo", *words), **cpu)


@pytest.mark.parametrize("rank", [4, None], ids=["lora", "full"])
def test_two_processes_train_as_one_and_one_of_them_samples(
    launch, device, models, pairs, tmp_path, rank
):
    same = {"rank": rank, "learning_rate": 1e-5, "max_train_steps": 3}
    sampling = {"run_validation": True, "validation_steps": 2, "validation_prompts": "a red square"}
    sampling |= {"num_inference_steps": 1}
    out = tmp_path / "two"
    found = launch(*flags(models(), pairs, out, train_batch_size=2, **same, **sampling))
    assert found.returncode == 0, found.stderr
    words = flags(models(), pairs, tmp_path / "one", train_batch_size=4, **same)
    one = run(script("train_diffusion_dpo", *words))
    assert one.returncode == 0, one.stderr
    names = ("loss", "grad_norm")
    for name in names:
        alone, shared = ([line[name] for line in metrics(tmp_path / n)] for n in ("one", "two"))
        assert shared == pytest.approx(alone, rel=1e-2)
    assert metrics(out)[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)
