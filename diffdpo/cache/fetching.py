"""Results of a device fetched one behind: while one is copied, the next is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def one_behind(results: Iterable[tuple[T, Tensor]]) -> Iterator[tuple[T, Tensor]]:
    """Each result with its tensor on the CPU. A GPU is given the work of the next one before this
    one is waited for."""
    waiting: tuple[T, Tensor, Any] | None = None
    for label, tensor in results:
        copy = copied(tensor)
        if waiting is not None:
            yield arrived(*waiting)
        waiting = label, *copy
    if waiting is not None:
        yield arrived(*waiting)


def copied(tensor: Tensor) -> tuple[Tensor, Any]:
    """A copy on the CPU, under way, and the event of its end; None where it is there already."""
    if tensor.device.type != "cuda":
        return tensor.cpu(), None
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    there.copy_(tensor, non_blocking=True)
    end = torch.cuda.Event()
    end.record()
    return there, end


def arrived(label: T, tensor: Tensor, end: Any) -> tuple[T, Tensor]:
    """A result whose copy is at its end."""
    if end is not None:
        end.synchronize()
    return label, tensor
