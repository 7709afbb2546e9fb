"""Latents as sequences of 2 × 2 patches, as Flux and its relatives take them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def pack(latents_NCHW: Tensor) -> Tensor:
    """Tokens ``(N, h/2 · w/2, 4C)``, row by row; the channels of a patch are (C, 2, 2)."""
    rows, channels, height, width = latents_NCHW.shape
    patches = latents_NCHW.reshape(rows, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, 4 * channels)


def unpack(tokens_NLD: Tensor, height: int, width: int) -> Tensor:
    """The latents ``(N, C, height, width)`` of such tokens."""
    rows, _, wide = tokens_NLD.shape
    patches = tokens_NLD.reshape(rows, height // 2, width // 2, wide // 4, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(rows, wide // 4, height, width)


def positions(height: int, width: int, device: torch.device) -> Tensor:
    """(0, row, column) of each token of such latents, ``(h/2 · w/2, 3)``, float32."""
    axes = (torch.arange(size // 2, device=device, dtype=torch.float32) for size in (height, width))
    return pad(torch.cartesian_prod(*axes), (1, 0))
