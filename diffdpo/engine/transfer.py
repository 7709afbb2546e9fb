"""Batches on their way to the device: from pinned memory, and without the host waiting for a copy.

A copy from ordinary memory waits until the device has done all that was queued before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Batch:
    """A dataclass of tensors and plain values, whose tensors a DataLoader may pin."""

    def pin_memory(self) -> Any:
        """The same with its tensors in memory that a GPU reads by itself."""
        return each_tensor(self, Tensor.pin_memory)


def on_device(value: T, device: torch.device) -> T:
    """A tensor, or a dataclass, dict or tuple with every tensor in it, on ``device``, by a copy
    each that the host does not wait for. Lists stay as they are: they are for the host."""

    def moved(tensor: Tensor) -> Tensor:
        if device.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
            tensor = tensor.pin_memory()
        # Apple's GPUs may read the memory of such a copy after it was given back.
        return tensor.to(device, non_blocking=device.type != "mps")

    return each_tensor(value, moved)


@functools.cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers that never change, float32, brought to the device once."""
    return on_device(torch.tensor(values, dtype=torch.float32), device)


def each_tensor(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """``value`` with ``change`` applied to every tensor in it."""
    new: Any = value
    if isinstance(value, Tensor):
        new = change(value)
    elif isinstance(value, dict):
        new = {name: each_tensor(one, change) for name, one in value.items()}
    elif isinstance(value, tuple):
        new = tuple(each_tensor(one, change) for one in value)
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        new = replace(value, **{name: each_tensor(one, change) for name, one in parts.items()})
    return new
