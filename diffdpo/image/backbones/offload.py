"""Frozen weights in host memory: a block of the network has them on the device while it runs.

They are copied to the device and never back. What is trained, and all that lies outside of blocks,
stays on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffdpo.engine.finite import plain_tensors
from diffdpo.engine.low_bits import leave_to_each_process

CHUNK = 2**30  # bytes
ALIGNED = 256  # bytes, as allocators begin tensors


def offload(network: Any, device: torch.device) -> None:
    """Move a network to ``device``, but for the frozen weights of its blocks, which stay in host
    memory and are copied for every forward pass of their block. The network then does without
    gradient checkpointing of its own: each of these blocks is computed again on the way back.

    Names of weights, and their values, stay as they are.
    """
    for block in blocks_of(network):
        run = FromHost(block, device)
        block.forward = run
        block._apply = run.apply  # type: ignore[method-assign]
    frozen = [weight for weights in host_weights(network) for weight in weights]
    for weight in frozen:
        if weight.device.type != "cpu":  # of a model that a program has on a GPU already
            weight.data = weight.data.to("cpu")
    if device.type == "cuda":
        into_chunks([one for weight in frozen for _, one in plain_tensors("", weight)], pin=True)
    network.to(device)
    leave_to_each_process(network)


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network: what its lists hold under a class of that name, the innermost ones.

    They are what diffusers' gradient checkpointing computes again; of a UNet, the residual blocks
    of convolutions and the transformer blocks between them.
    """
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    named = [one for each in lists for one in each if "Block" in type(one).__name__]
    every = set(named)
    return [block for block in named if every.isdisjoint(list(block.modules())[1:])]


class FromHost:
    """The forward pass of a block whose frozen weights lie in host memory.

    The copies last as long as the pass. Where a gradient is wanted, of the pass nothing but the
    block's inputs is kept, and it is done again on the way back, with new copies (gradient
    checkpointing, Chen et al. 2016, arXiv 1604.06174): two passes never hold copies of two blocks.
    """

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        self.block, self.device, self.forward = block, device, block.forward
        self.places = [
            (module._parameters, name)
            for path, module in block.named_modules()
            for name, weight in module.named_parameters(recurse=False)
            # A frozen adapter, which is small, becomes a trained one when peft switches to it.
            if not weight.requires_grad and "lora_" not in f"{path}.{name}"
        ]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.run(*args, **kwargs)
        # No random state to keep: dropout is off, and a block draws nothing else.
        return checkpoint(self.run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The block's own forward pass, with its weights on the device."""
        with self.filled([copied(weight, self.device) for weight in self.weights()]):
            return self.forward(*args, **kwargs)

    def weights(self) -> list[nn.Parameter]:
        """The frozen weights, as they lie in host memory."""
        return [weights[name] for weights, name in self.places]  # type: ignore[misc]

    @contextmanager
    def filled(self, tensors: Sequence[Tensor | None]) -> Iterator[None]:
        """A context in which the block has these ``tensors`` in place of its frozen weights."""
        own = self.weights()
        self.fill(tensors)
        try:
            yield
        finally:
            self.fill(own)

    def fill(self, tensors: Sequence[Any]) -> None:
        """Put a tensor, or none, in the place of each frozen weight."""
        for (weights, name), tensor in zip(self.places, tensors, strict=True):
            weights[name] = tensor

    def apply(self, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """What ``to`` and its like do to a block: to all of it but the frozen weights."""
        with self.filled([None] * len(self.places)):
            return type(self.block)._apply(self.block, change, recurse)


def copied(weight: Tensor, device: torch.device) -> Tensor:
    """A copy of a frozen weight on the device; from pinned memory the host does not wait for it."""
    return weight.detach().to(device, non_blocking=True, copy=True)


@torch.no_grad()
def into_chunks(tensors: Sequence[Tensor], pin: bool) -> None:
    """Move tensors, one after the other, into large chunks of host memory, which a GPU reads by
    itself where it is pinned."""
    # Not each into pinned memory of its own: PyTorch takes that in powers of two, which would be
    # half as much again for Flux.
    rest, start, chunk = sum(map(room, tensors)), 0, torch.empty(0, dtype=torch.uint8)
    for tensor in tensors:
        if start + room(tensor) > len(chunk):
            size = max(room(tensor), min(CHUNK, 1 << (rest - 1).bit_length()))
            start, chunk = 0, torch.empty(size, dtype=torch.uint8, pin_memory=pin)
        piece = chunk[start : start + tensor.nbytes].view(tensor.dtype)
        piece = piece.as_strided(tensor.shape, tensor.stride(), piece.storage_offset())
        tensor.data = piece.copy_(tensor)
        start, rest = start + room(tensor), rest - room(tensor)


def room(tensor: Tensor) -> int:
    """The bytes that a tensor takes of a chunk."""
    return -(-tensor.nbytes // ALIGNED) * ALIGNED


def host_weights(network: nn.Module) -> list[list[nn.Parameter]]:
    """The frozen weights of each block that lie in host memory; none where nothing is offloaded."""
    runs = [getattr(module, "forward", None) for module in network.modules()]
    return [run.weights() for run in runs if isinstance(run, FromHost)]
