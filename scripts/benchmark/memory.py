"""Peak memory of this process."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch

MIB = 1 << 20


def peak_memory() -> dict[str, float]:
    """The most memory held so far, in MiB: resident, and on the card where there is one."""
    peak = {"ram": resident_peak() / MIB}
    if torch.cuda.is_available():
        peak["gpu"] = torch.cuda.max_memory_allocated() / MIB
    return peak


def resident_peak() -> int:
    """Bytes. Linux counts a parent's memory in its child's ru_maxrss, but not in VmHWM."""
    status = Path("/proc/self/status")
    match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if match:
        return int(match[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )
