"""The optimizer's state as tensors and plain values, and back, checked against the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor

from diffdpo.errors import UserError, short

# The shape of each kind of state for a weight's shape: AdamW's (torch) and Adafactor's
# (transformers). Others, of bitsandbytes, are checked by its own loader.
SHAPES: dict[str, Callable[[Size], tuple[int, ...]]] = {
    "step": lambda weight: (),
    "exp_avg": tuple,
    "exp_avg_sq": tuple,
    "exp_avg_sq_row": lambda weight: tuple(weight[:-1]),
    "exp_avg_sq_col": lambda weight: tuple(weight[:-2] + weight[-1:]),
}
ADAMW = {"step", "exp_avg", "exp_avg_sq"}


def copied(value: Tensor) -> Tensor:
    """A copy on the CPU, ready to be written."""
    # copy=True: of a tensor on the CPU ``to`` would return the tensor itself, and training goes on
    # to change it while a thread writes the file.
    return value.detach().to("cpu", copy=True).contiguous()


def flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors for safetensors and plain values for JSON."""
    # Nothing is pickled: loading a pickle from elsewhere would run its code.
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entry in state["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = copied(value)
            else:
                values[f"{index}.{name}"] = value
    return tensors, {"values": values, "param_groups": state["param_groups"]}


def restore(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], values: dict[str, Any]
) -> None:
    """Load what ``flatten`` made. Raises UserError where it is not of this optimizer's form."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **values}.items():
        index, _, name = key.partition(".")
        if not index.isdecimal() or not name:
            raise UserError(f"{short(key)} is not the name of an optimizer's value")
        state.setdefault(int(index), {})[name] = value
    check(optimizer, state)
    # The groups' own options are those of the settings, which are the same as the saved run's.
    groups = optimizer.state_dict()["param_groups"]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise UserError(f"the optimizer does not take its state ({short(error)})") from error


def check(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Any]]) -> None:
    """Raises UserError where a value is missing, has no weight, or has another shape than it."""
    # A fused optimizer takes shapes on trust, and would write beyond the end of a smaller tensor.
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    needed = ADAMW if isinstance(optimizer, torch.optim.AdamW) else set()
    for index, entry in state.items():
        if index >= len(weights):
            raise UserError(f"it is of {index + 1} weights or more, this run has {len(weights)}")
        if missing := [name for name in sorted(needed) if not isinstance(entry.get(name), Tensor)]:
            raise UserError(f"{index}.{missing[0]} is missing")
        for name, value in entry.items():
            if reason := misfit(name, value, weights[index].shape):
                raise UserError(f"{index}.{short(name)} {reason}")


def misfit(name: str, value: Any, weight: Size) -> str:
    """Why a value cannot belong to a weight of this shape; '' where it may."""
    if not isinstance(value, Tensor):
        return "" if isinstance(value, int | float | None) else f"is {short(value)}"
    if name in SHAPES and tuple(value.shape) != SHAPES[name](weight):
        return f"has the shape {tuple(value.shape)}, for a weight of {tuple(weight)}"
    if value.is_floating_point() and not torch.isfinite(value).all():
        return "holds values that are not finite"
    return ""
