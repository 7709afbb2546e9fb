"""Saving while training goes on."""

import time
import weakref
from types import SimpleNamespace

import torch
from accelerate import Accelerator

from diffdpo.engine import checkpoint, keeper
from diffdpo.engine.settings import TrainSettings
from tests.engine.saved import trained


def test_memory_holds_one_snapshot_however_slow_the_disk_is(tmp_path, monkeypatch):
    """A checkpoint that falls due while the last one is being written waits before it copies."""
    made, alive_at_copying = [], []
    copy, write = checkpoint.snapshot, checkpoint.write

    def copied(*arguments):
        alive_at_copying.append(sum(one() is not None for one in made))
        moment = copy(*arguments)
        made.append(weakref.ref(moment))
        return moment

    def slowly(*arguments):
        time.sleep(0.3)
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "snapshot", copied)
    monkeypatch.setattr(checkpoint, "write", slowly)
    model, optimizer = trained(torch.optim.AdamW)
    settings = TrainSettings(output_dir=str(tmp_path), checkpoints_total_limit=2)
    saving = keeper.Keeper(
        Accelerator(cpu=True),
        settings,
        model,
        SimpleNamespace(optimizer=optimizer),
        effective_batch=2,
        data="d",
        notice=print,
    )
    for step in (1, 2, 3):
        saving.save(step)
    saving.wait()
    assert alive_at_copying == [0, 0, 0]
    assert [path.name for path in saving.checkpoints()] == ["checkpoint-2", "checkpoint-3"]
