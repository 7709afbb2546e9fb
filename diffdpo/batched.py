"""Cuts what is too much at once into batches."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar


class Sliced(Protocol):
    """A list, range, array or tensor: a slice of it is one again."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Any: ...


Items = TypeVar("Items", bound=Sliced)


def batched(items: Items, size: int) -> list[Items]:
    """``items`` in batches of ``size``, the last of which may be smaller; those of an array are
    views."""
    return [items[first : first + size] for first in range(0, len(items), size)]
