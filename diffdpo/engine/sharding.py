"""Weights in shares over the processes of a run: PyTorch's FSDP2, where accelerate is set to it.

The only file that knows of DTensors, as which each process holds its share of a weight. On one
device and under DistributedDataParallel every function here leaves things as they are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from diffdpo.errors import UserError, short

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

ValueOf = Callable[[str, nn.Parameter], Tensor]


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether a run holds its weights in shares."""
    return bool(accelerator.is_fsdp2)


def first_place(accelerator: Accelerator, runs_whole: bool) -> torch.device:
    """Where a network is put before training: on the device; or in host memory where it is to be
    put in shares, unless it ``runs_whole`` before that."""
    # Layer by layer it then comes to the device, which never holds all of it.
    is_waiting = is_sharded(accelerator) and not runs_whole
    return torch.device("cpu") if is_waiting else accelerator.device


def shard(network: Any, layers: Iterable[nn.Module], value_of: ValueOf | None = None) -> None:
    """Put a network in shares, in place: each of its ``layers`` by itself, then the rest.

    A layer is whole on each process while it runs, and at no other time. ``value_of`` gives the
    whole values of parameters that have no memory, by their name, to all processes together.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # No policy of mixed precision: autocast decides it, as with one process. A policy would round
    # what enters a layer and what leaves the network.
    for part in [*(named_layers(network) or layers), network]:
        if value_of:
            fill(network, part, value_of)
        # In shares again after every pass: what stayed whole would be blind to what is written into
        # the shares between two passes, from a checkpoint or for a moving average.
        fully_shard(part, reshard_after_forward=True, ignored_params=in_few_bits(part))
    if hasattr(network, "generate"):
        register_fsdp_forward_method(network, "generate")
    if hasattr(network, "passes"):
        network.passes = as_often()


def in_few_bits(network: nn.Module) -> set[nn.Parameter]:
    """The frozen weights that torchao has quantised. Every process keeps them whole: they are small
    already, and an exchange knows nothing of the tensors that they are made of."""
    weights = (weight for weight in network.parameters() if not is_share(weight))
    return {weight for weight in weights if hasattr(weight, "__tensor_flatten__")}


def fill(network: nn.Module, part: nn.Module, value_of: ValueOf) -> None:
    """Give the parameters of a part of the network that are not in shares their ``value_of``; where
    one stands in two places, in both."""
    prefixes = {module: name for name, module in network.named_modules()}
    filled: dict[nn.Parameter, nn.Parameter] = {}
    for module in part.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if is_share(weight):
                continue
            if weight not in filled:
                value = value_of(f"{prefixes[module]}.{name}".lstrip("."), weight)
                filled[weight] = nn.Parameter(value, requires_grad=weight.requires_grad)
            module.register_parameter(name, filled[weight])


def from_first(accelerator: Accelerator) -> ValueOf:
    """The values that the first process has, where the others have none."""

    def value_of(name: str, weight: nn.Parameter) -> Tensor:
        if accelerator.is_main_process:
            value = weight.detach().to(accelerator.device).contiguous()
        else:
            value = torch.empty(weight.shape, dtype=weight.dtype, device=accelerator.device)
        torch.distributed.broadcast(value, src=0)
        return value

    return value_of


def from_shares(network: nn.Module) -> ValueOf:
    """The values of the parameters of a ``network`` that is in shares already."""
    weights = dict(network.named_parameters(remove_duplicate=False))
    return lambda name, weight: whole(weights[name].detach())


def lack_memory(accelerator: Accelerator, network: nn.Module) -> bool:
    """Whether there is a process whose network has parameters without memory."""
    lacking = any(weight.is_meta for weight in network.parameters())
    return agreed(accelerator, "lacking" if lacking else None) is not None


def named_layers(network: nn.Module) -> list[nn.Module]:
    """The layers whose classes accelerate's configuration names, if it names any, inner ones first.

    Raises UserError where a network has none of them.
    """
    names = os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    found = [module for module in network.modules() if type(module).__name__ in wanted]
    if wanted and not found:
        raise UserError(
            f"fsdp_transformer_layer_cls_to_wrap {short(names)}: the network has no such layer;"
            " left out, its own blocks are taken"
        )
    return found[::-1]


def as_often() -> Callable[[int], int]:
    """A function that gives every process the largest of their counts."""
    # Every pass of a layer is an exchange, in which all must take part. Over gloo: to ask NCCL, the
    # host would wait for all that the device has still to do.
    group = torch.distributed.new_group(backend="gloo")

    def largest(count: int) -> int:
        most = torch.tensor(count)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX, group)
        return int(most)

    return largest


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """Accelerate's wrappers round model and optimizer."""
    if is_sharded(accelerator):
        # Not by ``prepare``, which knows a weight by its address in memory: shares of a weight with
        # fewer rows than there are processes may be empty, and all empty ones have one address.
        return model, accelerator.prepare_optimizer(optimizer)
    model, optimizer = accelerator.prepare(model, optimizer)
    return model, optimizer


def is_share(tensor: Any) -> bool:
    """Whether a tensor is one of which this process holds a share."""
    # Not imported: that takes seconds, and where nobody has done it there is none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Any) -> Tensor:
    """What this process holds of a tensor: its share, in the tensor's own memory, or all."""
    return tensor.to_local() if is_share(tensor) else tensor


def whole(tensor: Any) -> Tensor:
    """A tensor with the shares of all processes, which must ask for it together."""
    if not is_share(tensor):
        return tensor
    # Not by ``full_tensor``: it waits holding Python's lock, which a thread of gloo may need to
    # end the exchange, and some runs would never go on.
    mesh, mine = tensor.device_mesh, local(tensor)
    rows = -(-len(tensor) // mesh.size())  # of each share but the last ones, as FSDP2 cuts them
    share = mine.new_zeros(rows, *mine.shape[1:])
    share[: len(mine)] = mine
    shares = [torch.empty_like(share) for _ in range(mesh.size())]
    torch.distributed.all_gather(shares, share, mesh.get_group())
    return torch.cat(shares)[: len(tensor)]


def clipped(accelerator: Accelerator, parameters: list[nn.Parameter], limit: float) -> Tensor:
    """The norm of the gradient, which is scaled down to ``limit`` where it is larger."""
    if not is_sharded(accelerator):
        return torch.as_tensor(accelerator.clip_grad_norm_(parameters, limit)).detach()
    # By hand, for the reason in ``whole``.
    gradients = [local(w.grad) for w in parameters if w.grad is not None]
    square = torch.nn.utils.get_total_norm(gradients).square().to(accelerator.device)
    torch.distributed.all_reduce(square)
    norm = square.sqrt()
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def share_as(weight: Any, value: Tensor) -> Tensor:
    """A whole ``value`` in the shares that ``weight`` has, where it has its shape."""
    if not is_share(weight) or is_share(value) or value.shape != weight.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    # None: every process has the value already, and nothing has to be sent.
    return distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)


@torch.no_grad()
def copy_in(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Give the tensors ``own`` the values ``found`` under their names, in place: an optimizer and
    DDP hold these very tensors."""
    for name, weight in own.items():
        weight.copy_(share_as(weight, found[name]))


def rows_of(weight: Any) -> tuple[int, int] | None:
    """The rows of a weight whose share this process holds, from the first to before the last; None
    where it is not in shares."""
    if not is_share(weight):
        return None
    mesh = weight.device_mesh
    size = -(-len(weight) // mesh.size())  # as in ``whole``
    first = min(mesh.get_local_rank() * size, len(weight))
    return first, min(first + size, len(weight))


def first_rows(tensors: Mapping[str, Any], is_first: bool) -> dict[str, int]:
    """The row at which this process's share of each tensor begins, without shares of no rows; of a
    tensor that every process has whole, 0, for the first process alone."""
    begin = {name: rows_of(tensor) for name, tensor in tensors.items()}
    shares = {name: rows[0] for name, rows in begin.items() if rows and rows[0] < rows[1]}
    return shares | {name: 0 for name, rows in begin.items() if rows is None and is_first}


def from_rows(weight: Any, rows: Tensor) -> Tensor:
    """A tensor in the shares of ``weight``, of which these ``rows`` are this process's."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        rows.to(local(weight).device),
        weight.device_mesh,
        weight.placements,
        run_check=False,
        shape=weight.shape,
        stride=weight.stride(),
    )


@torch.no_grad()
def exchanged(weight: Any, other: Any) -> Tensor:
    """Give a weight the values of ``other``; returns what holds the weight's own."""
    if not is_share(weight):
        own: Tensor = weight.data
        weight.data = other
        return own
    # FSDP2 sends the memory that it gave a share, and would not see another in its place.
    mine, theirs = local(weight.detach()), local(other)
    kept = mine.clone()
    mine.copy_(theirs)
    theirs.copy_(kept)
    return other


def agreed(accelerator: Accelerator, found: str | None) -> str | None:
    """The first thing that a process has found; where weights are in shares, each looks at its
    own."""
    if not is_sharded(accelerator):
        return found
    from accelerate.utils import gather_object

    return next((one for one in gather_object([found]) if one), None)


def make_whole(network: nn.Module, keep: bool) -> None:
    """Take a network out of shares, as training ends: plain modules with whole weights in host
    memory for the process that is to ``keep`` them, and without any for the others."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    # A weight may stand in two places. The old ones stay alive here, or an address would be reused.
    done: dict[nn.Parameter, nn.Parameter] = {}
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if not is_share(weight):
                continue  # in few bits, and whole
            if weight not in done:
                value = whole(weight.detach())
                value = value.to("cpu" if keep else "meta")
                done[weight] = nn.Parameter(value, requires_grad=weight.requires_grad)
            module.register_parameter(name, done[weight])
        if isinstance(module, FSDPModule):
            state: Any = fully_shard.state(module)  # type: ignore[attr-defined]
            state._pre_forward_hook_handle.remove()
            state._post_forward_hook_handle.remove()
            kind: Any = type(module)
            module.__class__ = kind.__mro__[kind._orig_cls_mro_index]
