"""Failures that are no bug of the program, in one line each: memory, and other processes."""

from __future__ import annotations

import os
import re
from errno import ENAMETOOLONG

from diffdpo.config import BaseSettings
from diffdpo.engine.console import rank
from diffdpo.errors import UserError, short

NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|Cannot allocate")
BYTES = re.compile(r"tried to allocate (\d+) bytes")  # of PyTorch's allocator on the CPU
# PyTorch counts bytes in 64 bits; a size beyond them is a lack of memory under another name.
TOO_LARGE = re.compile(r"Storage size calculation overflowed")
LOST_PEER = re.compile(r"(closed|reset) by peer|Broken pipe|ncclRemoteError|Socket closed")
NO_DETERMINISM = re.compile(r"(\S+) does not have a deterministic implementation")
# What each of these settings does about memory, where the command has it.
LESS_MEMORY = {
    "train_batch_size": "a smaller --train_batch_size with more --gradient_accumulation_steps",
    "gradient_checkpointing": "--gradient_checkpointing",
    "offload": "--offload under a LoRA",
    "resolution": "a smaller --resolution",
    "max_length": "a smaller --max_length",
    "rank": "a smaller --rank",
    "lora_r": "a smaller --lora_r",
    "timesteps_per_pair": "fewer --timesteps_per_pair",
    "batch_size": "a smaller --batch_size",
    "num_prompts": "fewer --num_prompts",
}
LESS = "less at a time"


def in_one_line(error: Exception, settings: BaseSettings | None) -> UserError | None:
    """The error as a line for the user; None for one that is a bug, whose traceback is wanted."""
    if is_lack_of_memory(error):
        ways = [way for name, way in LESS_MEMORY.items() if hasattr(settings, name)]
        return UserError(f"out of memory{size_of(error)}; take {', or '.join(ways or [LESS])}")
    if match := NO_DETERMINISM.search(str(error)):
        return UserError(
            f"--deterministic: {short(match[1])} has no algorithm that repeats bit for bit on this"
            " device; leave the flag out"
        )
    if isinstance(error, OSError) and error.errno == ENAMETOOLONG:
        return UserError(f"{short(error.filename)}: too long for the name of a file")
    return None


def machine_memory() -> int:
    """The bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def size_of(error: Exception) -> str:
    """What was asked for, in brackets; '' where the error does not say."""
    if match := BYTES.search(str(error)):
        return f" ({int(match[1]) / 2**30:,.1f} GiB were asked for at once)"
    return f" ({short(error)})" if str(error) else ""


def is_lack_of_memory(error: Exception) -> bool:
    """Whether memory was lacking, on the host or on a device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if not isinstance(error, RuntimeError):
        return False
    return any(pattern.search(str(error)) for pattern in (NO_MEMORY, TOO_LARGE))


def is_lost_peer(error: Exception) -> bool:
    """Whether another process of this run ended, and this one's exchange with it broke off."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not isinstance(error, RuntimeError):
        return False
    # The classes of torch.distributed, which is not imported for this.
    of_exchange = type(error).__name__.startswith("Dist")
    return of_exchange or bool(LOST_PEER.search(str(error)))


def peer_line() -> str:
    """What a process says that ends because another one did."""
    return f"process {rank()}: another process of this run ended, so this one ends too"
