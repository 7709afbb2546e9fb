"""Where commands compute."""

import pytest
import torch

from diffdpo.commands import evaluate_text
from diffdpo.engine import accelerator, crew


@pytest.mark.parametrize(("has_gpu", "device"), [(False, "cpu"), (True, "cuda")])
def test_every_command_that_samples_takes_the_gpu_where_there_is_one(has_gpu, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert evaluate_text.sampling_device is accelerator.sampling_device
    assert accelerator.sampling_device() == torch.device(device)
    with crew.crew(alone=True) as team:  # evaluate's, which samples in several processes
        assert team.device == torch.device(device)


def test_of_several_trackers_those_that_are_installed_are_used(monkeypatch, capsys):
    there = {"tensorboard": "json", "wandb": "no_such_package"}
    monkeypatch.setattr(accelerator, "TRACKERS", there)
    assert accelerator.trackers(["tensorboard", "wandb"]) == ["tensorboard"]
    assert "--report_to wandb: no_such_package is not installed" in capsys.readouterr().out
    assert accelerator.trackers("wandb") is None
    assert accelerator.trackers(["none"]) is accelerator.trackers("none") is None
    assert accelerator.trackers(["all"]) == "all"
