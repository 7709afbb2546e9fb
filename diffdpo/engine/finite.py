"""Finds tensors with values that are NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

CHECKED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # types that have NaN


def names_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors with a value that is not finite."""
    checked = [(name, tensor.isfinite().all()) for name, tensor in tensors if has_nan(tensor)]
    # Brought to the host together: a device is waited for once.
    finite = torch.stack([flag.cpu() for _, flag in checked]).tolist() if checked else []
    return [name for (name, _), ok in zip(checked, finite, strict=True) if not ok]


def has_nan(tensor: Tensor) -> bool:
    """Whether values of this tensor can be other than finite."""
    return tensor.dtype in CHECKED and tensor.device.type != "meta"
