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

COMPILERS = ("torch._dynamo", "torch._inductor")  # not imported: that alone takes a second


def compile_networks(model: nn.Module, reference: Any) -> None:
    """Mark the policy, and a reference with its own network, to be compiled when they first run."""
    model.compile()
    with reference.network(model) as frozen:
        if frozen is not model:
            frozen.compile()


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
