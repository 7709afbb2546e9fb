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
