"""What a processor made of the pictures of some items, and how a network is given it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffdpo.engine.transfer import Batch


@dataclass(frozen=True)
class Pictures(Batch):
    """The pictures of some items, for the network. They take no part in the layout of tokens: the
    prompts hold tokens in their places."""

    # Of every item what the processor calls pixel_values, image_grid_thw and so on, with the
    # pictures along the first dimension; none where the item has no picture.
    of_item: tuple[dict[str, Tensor], ...]
    marks: tuple[int, ...]  # the tokens that stand in the place of a picture
    kinds: tuple[str, ...]  # inputs of the network that tell these tokens from others, 1 or 0

    def inputs(self, items: Sequence[int], token_NT: Tensor) -> dict[str, Tensor]:
        """The inputs beside tokens of a pass whose rows are of these ``items``, which may come
        several times; none where no row has a picture."""
        given = [self.of_item[item] for item in items if self.of_item[item]]
        if not given:
            return {}
        found = {name: stacked([one[name] for one in given]) for name in given[0]}
        if self.kinds:
            of_picture_NT = torch.zeros_like(token_NT)
            for mark in self.marks:
                of_picture_NT |= token_NT == mark
            found |= dict.fromkeys(self.kinds, of_picture_NT)
        return found


@dataclass(frozen=True)
class Look:
    """The pictures in a prompt: a digest of them, and what reads them, so that those of one batch
    are in memory at a time."""

    digest: bytes
    read: Callable[[], Pictures | None]


def stacked(values: Sequence[Tensor]) -> Tensor:
    """Tensors of several rows along the first dimension. In the others smaller ones are padded with
    zeros at the end, as processors do that cut a picture into a number of tiles."""
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    if all(list(value.shape[1:]) == shape for value in values):
        return torch.cat(list(values))
    filled = values[0].new_zeros((sum(map(len, values)), *shape))
    start = 0
    for value in values:
        place = (slice(start, start + len(value)), *map(slice, value.shape[1:]))
        filled[place] = value
        start += len(value)
    return filled


def together(parts: Sequence[Pictures | None]) -> Pictures | None:
    """The pictures of items, each read alone; None where nothing reads pictures."""
    known = [part for part in parts if part]
    if not known:
        return None
    # All items of a data set are read by one processor: they have the same marks.
    of_item = tuple(part.of_item[0] if part else {} for part in parts)
    return Pictures(of_item, known[0].marks, known[0].kinds)
