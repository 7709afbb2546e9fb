"""Where a step goes: the time of its operations, by kind. ADD A KIND: one row of KINDS.

An operation's own time counts, without those that it calls; on a card, the time of the kernels that
it starts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

# Pieces of operation names; an operation belongs to the first kind with a match.
KINDS = {
    "attention": (
        "scaled_dot_product",
        "_efficient_attention",
        "_flash_attention",
        "_cudnn_attention",
        "softmax",
    ),
    "convolutions": ("conv", "cudnn"),
    "optimizer": ("adam", "_foreach_", "linalg_vector_norm", "optimizer"),
    "matrix products": (
        "::mm",
        "::addmm",
        "::bmm",
        "::baddbmm",
        "::matmul",
        "::linear",
        "::_addmm",
    ),
    "norms": ("group_norm", "layer_norm", "rms_norm"),
    "copies": ("copy_", "::cat", "::clone", "::index", "::gather", "::embedding"),
}
REST = "element by element and the rest"


class Operations:
    """Profiles what runs between ``start`` and ``stop``."""

    def start(self) -> None:
        """Begin to count."""
        cards = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self.profile = profile(activities=[ProfilerActivity.CPU, *cards])
        self.profile.start()

    def stop(self) -> dict[str, float]:
        """Share of the time of every kind, summing to 1; empty where nothing ran."""
        self.profile.stop()
        times = dict.fromkeys((*KINDS, REST), 0.0)
        for event in self.profile.key_averages():
            if event.device_type == DeviceType.CPU:
                times[kind_of(event.key)] += own_time(event)
        total = sum(times.values())
        return {kind: time / total for kind, time in times.items()} if total else {}


def own_time(event: Any) -> float:
    """Microseconds of the operation itself: on the GPU where there is one."""
    return event.self_device_time_total if torch.cuda.is_available() else event.self_cpu_time_total


def kind_of(name: str) -> str:
    """The kind of an operation."""
    folded = name.lower()
    return next(
        (kind for kind, pieces in KINDS.items() if any(piece in folded for piece in pieces)), REST
    )
