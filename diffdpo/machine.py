"""What makes PyTorch quick on a CPU, measured: settings of the process, no matter what it trains."""

from __future__ import annotations

import ctypes
import platform

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = 2**31 - 1  # bytes


def tune_cpu() -> None:
    """Flush denormals: a saturated loss otherwise runs seven times slower. And keep freed memory: by default glibc
    gives every large tensor back to the system and gets it again page by page, a tenth of a float32 step."""
    torch.set_flush_denormal(True)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
