"""The optimizer's state as tensors and plain values, by the names of the weights, and back, checked
against the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Size, Tensor

from diffdpo.engine.sharding import local, share_as, whole
from diffdpo.errors import UserError, short

# The shape of each kind of state for a weight's shape: AdamW's and RMSprop's (torch) and
# Adafactor's (transformers). Others, of bitsandbytes, are checked by its own loader.
SHAPES: dict[str, Callable[[Size], tuple[int, ...]]] = {
    "step": lambda weight: (),
    "exp_avg": tuple,
    "exp_avg_sq": tuple,
    "square_avg": tuple,
    "exp_avg_sq_row": lambda weight: tuple(weight[:-1]),
    "exp_avg_sq_col": lambda weight: tuple(weight[:-2] + weight[-1:]),
}
ADAMW = {"step", "exp_avg", "exp_avg_sq"}


def copies(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Copies on the CPU, ready to be written; none unless they are to be kept.

    Of tensors in shares all processes must ask for them together.
    """
    found = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())  # one at a time: a device need not hold all
        # copy=True: of a tensor on the CPU ``to`` would return the tensor itself, and training goes
        # on to change it while a thread writes the file.
        if keep:
            found[name] = value.to("cpu", copy=True).contiguous()
    return found


def flatten(
    state: dict[str, Any], weights: Sequence[str]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors for safetensors and plain values for JSON, both named
    ``<weight>.<value>``; ``weights`` are the names of those that it trains, in its order."""
    # Nothing is pickled: loading a pickle from elsewhere would run its code.
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for index, entry in state["state"].items():
        for name, value in entry.items():
            place = tensors if isinstance(value, Tensor) else values
            place[f"{weights[index]}.{name}"] = value
    return tensors, {"values": values, "param_groups": state["param_groups"]}


def restore(
    optimizer: torch.optim.Optimizer,
    tensors: dict[str, Tensor],
    values: dict[str, Any],
    weights: Sequence[str],
) -> None:
    """Load what ``flatten`` made. Raises UserError where it is not of this optimizer's form."""
    found = {**tensors, **values}
    state: dict[int, dict[str, Any]] = {}
    place = {weight: index for index, weight in enumerate(weights)}
    # Earlier versions wrote the numbers of weights; the two do not mix.
    numbered = all(key.rpartition(".")[0] not in place for key in found)
    for key, value in found.items():
        weight, _, name = key.rpartition(".")
        if not name or not (weight in place or (numbered and weight.isdecimal())):
            raise UserError(f"{short(key)} is not the name of an optimizer's value")
        index = int(weight) if numbered else place[weight]
        state.setdefault(index, {})[name] = value
    check(optimizer, state, weights)
    own = [weight for group in optimizer.param_groups for weight in group["params"]]
    state = {index: shared(own[index], entry) for index, entry in state.items()}
    # The groups' own options are those of the settings, which are the same as the saved run's.
    groups = optimizer.state_dict()["param_groups"]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise UserError(f"the optimizer does not take its state ({short(error)})") from error


def shared(weight: Tensor, entry: dict[str, Any]) -> dict[str, Any]:
    """The state of a weight, in shares where the weight is."""
    return {k: share_as(weight, v) if isinstance(v, Tensor) else v for k, v in entry.items()}


def check(
    optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Any]], names: Sequence[str]
) -> None:
    """Raises UserError where a value is missing, has no weight, or has another shape than it."""
    # A fused optimizer takes shapes on trust, and would write beyond the end of a smaller tensor.
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    needed = ADAMW if isinstance(optimizer, torch.optim.AdamW) else set()
    for index, entry in state.items():
        if index >= len(weights):
            raise UserError(f"it is of {index + 1} weights or more, this run has {len(weights)}")
        if missing := [name for name in sorted(needed) if not isinstance(entry.get(name), Tensor)]:
            raise UserError(f"{short(names[index])}.{missing[0]} is missing")
        for name, value in entry.items():
            if reason := misfit(name, value, weights[index].shape):
                raise UserError(f"{short(names[index])}.{short(name)} {reason}")


def misfit(name: str, value: Any, weight: Size) -> str:
    """Why a value cannot belong to a weight of this shape; '' where it may."""
    if not isinstance(value, Tensor):
        return "" if isinstance(value, int | float | None) else f"is {short(value)}"
    if name in SHAPES and tuple(value.shape) != SHAPES[name](weight):
        return f"has the shape {tuple(value.shape)}, for a weight of {tuple(weight)}"
    if value.is_floating_point() and not torch.isfinite(local(value)).all():
        return "holds values that are not finite"
    return ""
