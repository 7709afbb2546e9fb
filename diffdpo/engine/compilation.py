"""``torch.compile`` for policy and reference.

It is done in place, so that the names of weights and adapters stay as they are in checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from diffdpo.errors import UserError, short

# Graphs of one layer that are kept: with gradient and without, adapters on and off, one row and
# several, masked or not, each by itself. PyTorch's 8 are fewer, and past them nothing is compiled.
GRAPHS = 64
COMPILERS = ("torch._dynamo", "torch._inductor")  # not imported: that alone takes a second


def compile_networks(model: nn.Module, reference: Any) -> None:
    """Mark the policy, and a reference with its own network, to be compiled when they first run."""
    import torch._dynamo

    torch._dynamo.config.cache_size_limit = GRAPHS
    mark(model)
    with reference.network(model) as frozen:
        if frozen is not model:
            mark(frozen)


def mark(network: Any) -> None:
    """Mark a network to be compiled: each of its layers where it knows which those are; each of its
    blocks where it is a row of blocks that diffusers declares to be alike, which are compiled once
    for all; else as a whole."""
    if hasattr(network, "compile_layers"):
        network.compile_layers()
    elif is_row_of_blocks(network):
        network.compile_repeated_blocks()
    else:
        network.compile()


def is_row_of_blocks(network: nn.Module) -> bool:
    """Whether a network declares blocks, and has them in lists of its own.

    A UNet has them deeper down, and convolutions between them that gain from compiling as well.
    """
    blocks = set(getattr(network, "_repeated_blocks", None) or ())
    return any(
        type(module).__name__ in blocks and name.count(".") == 1
        for name, module in network.named_modules()
    )


@contextmanager
def compilation(compiles: bool, notice: Callable[[str], None]) -> Iterator[None]:
    """A context for a step; where the step ``compiles``, ``notice`` is told how long it took.

    Raises UserError where the compiler fails.
    """
    start = time.perf_counter()
    try:
        yield
    except RuntimeError as error:
        # Errors of the step itself are RuntimeErrors too; only the compiler's own are translated.
        if not compiles or not type(error).__module__.startswith(COMPILERS):
            raise
        reason = short(error, 200)
        raise UserError(
            f"--torch_compile: compiling failed ({reason}); leave the flag out"
        ) from error
    if compiles:
        notice(f"compiled     in {time.perf_counter() - start:.1f} s, the first step included")
