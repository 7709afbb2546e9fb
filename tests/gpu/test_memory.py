"""Memory of the card and of its host: what is held, and how a lack of it is told."""

from __future__ import annotations

import gc
import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from diffdpo.cli import run_command
from tests.commands.image_runs import flags, train

pytestmark = pytest.mark.gpu
MIB = 2**20


def resident():
    """Bytes of this process that no file backs."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", text)[1]) * 1024


@contextmanager
def host_peak():
    """A context; its list ends with the bytes by which host memory rose inside, at most."""
    gc.collect()
    begin, most, over = resident(), [0], threading.Event()

    def look():
        while not over.is_set():
            most.append(max(most[-1], resident() - begin))
            time.sleep(0.002)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


@pytest.fixture
def large(tmp_path, models):
    """``large(width)``: the tiny pipeline with a UNet of more weights; its folder, and how many."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    def make(width):
        pipeline = StableDiffusionPipeline.from_pretrained(models(), safety_checker=None)
        config = {**pipeline.unet.config, "block_out_channels": (width, 2 * width)}
        pipeline.unet = UNet2DConditionModel.from_config(config)
        pipeline.save_pretrained(tmp_path / "large")
        return tmp_path / "large", sum(w.numel() for w in pipeline.unet.parameters())

    return make


def width_for(device):
    """Channels: 190 M weights on a card, 12 M where the suite itself is tested."""
    return 512 if device.type == "cuda" else 128


def test_gradient_checkpointing_under_a_lora_saves_memory(card, large, pairs, tmp_path):
    folder, _ = large(128)
    peaks = []
    for name, more in (("plain", {}), ("again", {"gradient_checkpointing": True})):
        torch.cuda.reset_peak_memory_stats()
        train(*flags(folder, pairs, tmp_path / name, train_batch_size=8, resolution=256, **more))
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 0.7 * peaks[0]


def test_a_full_fine_tune_holds_what_the_docs_say_a_weight(card, large, pairs, tmp_path):
    """Weight, gradient, two moments and the reference's copy, four bytes each: docs/memory.md."""
    folder, weights = large(512)
    train(*flags(folder, pairs, tmp_path / "run", rank=None, mixed_precision="bf16"))
    # AdamW's step holds temporaries of single tensors; activations are small here.
    assert torch.cuda.max_memory_allocated() < 1.15 * 20 * weights + 256 * MIB


def test_two_saves_hold_one_snapshot_in_host_memory(device, large, pairs, tmp_path, monkeypatch):
    from diffdpo.engine import checkpoint

    folder, weights = large(width_for(device))
    write, snapshot, alive, most = checkpoint.write, checkpoint.snapshot, [0], [0]

    def copied(*args, **options):
        alive[0] += 1
        most.append(alive[0])
        return snapshot(*args, **options)

    def slow(*args):
        time.sleep(1)  # so that the next save is due before this one is written
        path = write(*args)
        alive[0] -= 1
        return path

    monkeypatch.setattr(checkpoint, "snapshot", copied)
    monkeypatch.setattr(checkpoint, "write", slow)
    words = {"rank": None, "max_train_steps": 3, "checkpointing_steps": 1, "train_batch_size": 1}
    with host_peak() as rose:
        train(*flags(folder, pairs, tmp_path / "run", **words))
    assert len(most) == 4
    assert max(most) == 1
    if device.type == "cuda":
        # A snapshot is weight and two moments; the network was read through the host before.
        assert rose[-1] < 1.3 * 12 * weights + 1024 * MIB


def test_a_lora_loads_its_base_in_half_the_host_memory(device, large, pairs, tmp_path):
    from diffdpo.image.backbones import load_backbone

    folder, weights = large(width_for(device))
    load_backbone(str(folder), dtype=torch.bfloat16)  # what loading imports and keeps
    with host_peak() as rose:
        backbone = load_backbone(str(folder), dtype=torch.bfloat16)
    assert {weight.dtype for weight in backbone.network.parameters()} == {torch.bfloat16}
    assert rose[-1] < 1.4 * 2 * weights + 16 * MIB


def test_a_batch_too_large_is_one_line_that_names_what_to_do(card, models, pairs, tmp_path, capsys):
    total = torch.cuda.get_device_properties(card).total_memory
    torch.cuda.set_per_process_memory_fraction(512 * MIB / total)
    try:
        words = flags(models(), pairs, tmp_path / "run", train_batch_size=512, resolution=256)
        assert run_command("train_diffusion_dpo", words) == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    complaint = capsys.readouterr().err
    assert "Traceback" not in complaint
    (line,) = [line for line in complaint.splitlines() if line.startswith("error: ")]
    assert "out of memory" in line
    assert "--gradient_checkpointing" in line
