"""Processor, GPU, threads and library versions behind the figures."""

from __future__ import annotations

import os
import platform
import re
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from scripts.benchmark.gate import now

LIBRARIES = ["torch", "diffusers", "transformers", "accelerate", "peft", "datasets", "trl"]
# Sides of the matrices whose product is timed: the larger one where it takes less than PATIENCE.
# Without bfloat16 instructions a product of large matrices takes minutes.
SIDES = (256, 2048)
PATIENCE = 1.0  # seconds
MATRIX_UNITS = ["amx_bf16", "avx512_bf16"]  # CPU instructions for bfloat16 products


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def card() -> str | None:
    """The GPU's name, where there is one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def card_slug() -> str:
    """The GPU's name as part of a file name, with a hyphen before it; empty without one."""
    name = card()
    return "-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") if name else ""


def describe(threads: int) -> dict[str, str]:
    """Processor, GPU, threads, speed of a matrix product, and versions."""
    facts = {"processor": processor(), "threads": str(threads)}
    if name := card():
        facts["card"] = name
    for dtype in (torch.float32, torch.bfloat16):
        facts[f"{dtype} matrix product".removeprefix("torch.")] = (
            f"{product_rate(dtype, threads):,.0f} GFLOP/s"
        )
    facts["python"] = platform.python_version()
    versions = {name: installed(name) for name in LIBRARIES}
    return facts | {name: number for name, number in versions.items() if number}


def product_rate(dtype: torch.dtype, threads: int) -> float:
    """Billions of operations a second in the product of two square matrices: the median of a
    few."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    small, large = SIDES
    side = large if min(product_times(dtype, small)) * (large / small) ** 3 < PATIENCE else small
    seconds = statistics.median(product_times(dtype, side))
    torch.set_num_threads(before)
    return 2 * side**3 / seconds / 1e9


def product_times(dtype: torch.dtype, side: int) -> list[float]:
    """Seconds of several products."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    times = []
    for _ in range(7):
        start = now()[0]
        matrix @ matrix
        times.append(now()[0] - start)
    return times


def processor() -> str:
    """The CPU's name, cores and bfloat16 instructions."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    name = re.search(r"model name\s*:\s*(.+)", text)
    units = [unit for unit in MATRIX_UNITS if re.search(rf"\b{unit}\b", text)]
    return (
        f"{name[1] if name else platform.processor()}, {cores()} cores,"
        f" {' and '.join(units) or 'no bfloat16 units'}"
    )


def installed(name: str) -> str | None:
    """A library's version; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
