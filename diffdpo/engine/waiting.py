"""Waiting for other processes without a limit: for work whose length nobody knows beforehand.

A process group gives up after its timeout, ten minutes with NCCL. That is right between two steps,
and wrong before the first, where one process may read, encode or check for longer than another.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

# A process that has done its share waits for the others however long they take; only one that is
# gone ends the wait.
PATIENCE = timedelta(days=7)

_known: dict[str, Any] = {}  # the default group, and the patient one of the same processes


def gathered(own: Any) -> list[Any]:
    """What every process hands over, in the order of their numbers; all must come here."""
    group = patient_group()
    if group is None:
        return [own]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own, group=group)
    return everyone


def meet() -> None:
    """Wait until all processes are here."""
    gathered(None)


def patient_group() -> dist.ProcessGroup | None:
    """A group of all processes that waits for ``PATIENCE``, on the CPU, where no kernel spins; None
    for a process that is alone. All must ask for it first at the same point."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    if _known.get("default") is not dist.group.WORLD:
        _known["default"] = dist.group.WORLD
        _known["patient"] = dist.new_group(backend="gloo", timeout=PATIENCE)
    group: dist.ProcessGroup = _known["patient"]
    return group
