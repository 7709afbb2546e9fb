"""Networks that the first process alone reads, and gives to the others share by share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from diffdpo.engine.launcher import LOADS_ONCE, is_set
from diffdpo.engine.sharding import is_sharded
from diffdpo.engine.waiting import patient_group
from diffdpo.errors import SharedError, UserError

Networks = TypeVar("Networks", bound=Sequence[Any])
Maker = Callable[[Callable[[], Networks]], Networks]


def loads_once(accelerator: Accelerator, runs_whole: bool) -> bool:
    """Whether the first process alone reads the model: where weights are in shares, accelerate is
    set to ``cpu_ram_efficient_loading``, and the network never ``runs_whole`` before training."""
    return is_sharded(accelerator) and is_set(LOADS_ONCE) and not runs_whole


def maker(accelerator: Accelerator, once: bool) -> Maker:
    """How networks are made: by every process, or ``once``, by the first one.

    Then the others get what it has made, module by module, with parameters that have no memory:
    ``sharding.shard`` brings them their values.
    """
    if not once:
        return lambda make: make()
    group = patient_group()  # reading takes as long as it takes

    def made(make: Callable[[], Networks]) -> Networks:
        found: Networks | None = None
        told: list[Any] = [None, ()]
        if accelerator.is_main_process:
            try:
                found = make()
                told = [hollow(found), ()]
            except UserError as error:
                told = [None, error.mistakes]
        torch.distributed.broadcast_object_list(told, src=0, group=group)
        if told[1]:
            raise SharedError(*told[1])
        networks: Networks = told[0] if found is None else found
        return networks

    return made


def hollow(networks: Any) -> Any:
    """A copy of a network, or of several, whose parameters have no memory. All else is copied, the
    buffers too, which are small, and of which networks may hold the values under other names."""
    memo: dict[int, Any] = {}
    for network in networks if isinstance(networks, tuple) else (networks,):
        for weight in network.parameters() if isinstance(network, nn.Module) else ():
            memo[id(weight)] = nn.Parameter(weight.detach().to("meta"), weight.requires_grad)
    return copy.deepcopy(networks, memo)
