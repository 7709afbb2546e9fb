"""The noise that a picture was sampled from: a function of its seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def start_generator(seed: int) -> torch.Generator:
    """The generator that a pipeline samples a picture with."""
    # One for each picture, on the CPU: the same noise on every device and in every batch.
    return torch.Generator().manual_seed(seed)


def start_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """The start noise ``(N, *shape)`` of pictures that float32 pipelines sampled with ``seeds``.

    ``shape`` is that of one picture's latents before a network's own packing. A pipeline draws it
    first of all; what its scheduler then multiplies it by is no part of it.
    """
    return torch.stack([torch.randn(shape, generator=start_generator(seed)) for seed in seeds])


def own_noise(seeds: Sequence[int], flips: Sequence[bool], shape: tuple[int, ...]) -> Tensor:
    """The start noise of each picture, mirrored where the picture is.

    Winner and loser then lie each on its own path from noise to picture (PNAPO, arXiv 2605.09433).
    A path, mirrored as a whole, is the path of the mirrored picture.
    """
    noise = zip(start_noise(seeds, shape), flips, strict=True)
    return torch.stack([x.flip(-1) if flip else x for x, flip in noise])
