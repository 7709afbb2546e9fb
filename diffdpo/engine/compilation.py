"""``torch.compile`` for policy and reference, in place: names of weights, adapters and checkpoints
stay as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from diffdpo.errors import UserError

COMPILERS = ("torch._dynamo", "torch._inductor")  # not imported: that alone takes a second


def compile_networks(model: nn.Module, reference: Any) -> None:
    """Compile the policy, and the reference where it is a network of its own; it happens when they
    first run."""
    model.compile()
    with reference.network(model) as frozen:
        if frozen is not model:
            frozen.compile()


@contextmanager
def compilation(happens: bool, notice: Callable[[str], None]) -> Iterator[None]:
    """Round a run's first step: says how long compiling took. Raises UserError where no compiler is
    to be had."""
    start = time.perf_counter()
    try:
        yield
    except RuntimeError as error:
        if not happens or not type(error).__module__.startswith(COMPILERS):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--torch_compile: compiling failed ({reason}); leave the flag out"
        ) from error
    if happens:
        notice(f"compiled     in {time.perf_counter() - start:.1f} s, the first step included")
