"""The processes that share the work of a command which does not train."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate.state import AcceleratorState, PartialState

from diffdpo.engine.accelerator import PATIENCE, sampling_device
from diffdpo.engine.console import fail
from diffdpo.engine.run_folder import RELEASE_SECONDS
from diffdpo.engine.waiting import meet
from diffdpo.errors import UserError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Crew:
    """This process among those of a launcher: its number, how many there are, its device."""

    device: torch.device
    number: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that does what only one may do."""
        return self.number == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of the items: every one belongs to one process."""
        return items[self.number :: self.size]

    def wait(self) -> None:
        """Wait until all are here."""
        if self.size > 1:
            meet()


@contextmanager
def crew(alone: bool = False) -> Iterator[Crew]:
    """All processes that a launcher started, or this one alone.

    A mistake that another than the first one meets is told by that one itself.
    """
    if alone or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Crew(sampling_device())
        return
    device = sampling_device()
    on_cpu = device.type == "cpu"
    if not torch.distributed.is_initialized():  # a training before in the same process has ended it
        AcceleratorState._reset_state(reset_partial_state=True)
    state: Any = PartialState(cpu=on_cpu, timeout=PATIENCE)
    number = state.process_index
    try:
        yield Crew(device if on_cpu else state.device, number, state.num_processes)
    except UserError as error:
        if number:
            fail(error, own=True)
        raise
    meet()
    time.sleep(RELEASE_SECONDS)  # see its other use
    state.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)  # for a training behind it
