"""The card of these tests, or the CPU where the suite itself is tested."""

from __future__ import annotations

import os

import pytest
import torch

NO_CARD = "no CUDA device"
ON_CPU = os.environ.get("DIFFDPO_GPU_CHECK") == "cpu"


@pytest.fixture
def device() -> torch.device:
    """Where commands compute."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if ON_CPU:
        return torch.device("cpu")
    pytest.skip(NO_CARD)


@pytest.fixture
def card(device: torch.device) -> torch.device:
    """The same for what has a meaning on a card alone."""
    if device.type != "cuda":
        pytest.skip(NO_CARD)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return device
