"""The layers of a language model, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def layers_of(network: nn.Module) -> list[nn.Module]:
    """The layers of a language model: what its outermost lists hold."""
    lists = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.ModuleList)]
    names = [f"{name}." for name, _ in lists]
    return [
        layer
        for name, each in lists
        if not any(name.startswith(other) for other in names)
        for layer in each
    ]


@contextmanager
def not_compiled(layers: list[nn.Module]) -> Iterator[None]:
    """A context in which layers that are marked to be compiled run as they are written."""
    calls = [layer._compiled_call_impl for layer in layers]
    for layer in layers:
        layer._compiled_call_impl = None
    try:
        yield
    finally:
        for layer, call in zip(layers, calls, strict=True):
            layer._compiled_call_impl = call
