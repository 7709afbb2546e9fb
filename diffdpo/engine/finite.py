"""Finds tensors with values that are NaN or infinite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from diffdpo.engine.sharding import local

CHECKED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # types that have NaN


def names_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the tensors with a value that is not finite."""
    plain = (one for name, tensor in tensors for one in plain_tensors(name, tensor))
    checked = [(name, tensor.isfinite().all()) for name, tensor in plain if has_nan(tensor)]
    # Brought to the host together: a device is waited for once.
    finite = torch.stack([flag.cpu() for _, flag in checked]).tolist() if checked else []
    return [name for (name, _), ok in zip(checked, finite, strict=True) if not ok]


def plain_tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor by its name, of one in shares this process's; or, of a quantised one, the tensors
    that it is made of."""
    tensor = local(tensor)
    # The scales of a 4-bit weight of bitsandbytes, and those of its scales where they have some.
    state: Any = getattr(tensor, "quant_state", None)
    while state is not None:
        yield f"{name}.absmax", state.absmax
        name, state = f"{name}.absmax", state.state2
    # PyTorch's protocol of tensors that wrap others, in which torchao keeps values and scales.
    if not hasattr(tensor, "__tensor_flatten__"):
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:
        yield from plain_tensors(f"{name}.{part}", getattr(tensor, part))


def has_nan(tensor: Tensor) -> bool:
    """Whether values of this tensor can be other than finite."""
    return tensor.dtype in CHECKED and tensor.device.type != "meta"
