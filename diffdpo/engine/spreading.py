"""Puts the networks of a run in shares, before its optimizer is made."""

from __future__ import annotations

from accelerate import Accelerator
from torch import nn

from diffdpo.engine.settings import TrainSettings
from diffdpo.engine.sharding import (
    from_first,
    from_shares,
    is_sharded,
    lack_memory,
    shard,
)
from diffdpo.engine.task import Task
from diffdpo.errors import UserError
from diffdpo.reference import Reference


def spread(
    model: nn.Module,
    reference: Reference,
    task: Task,
    settings: TrainSettings,
    accelerator: Accelerator,
) -> int:
    """Put the weights of the policy, and of a reference with its own network, in shares where the
    run has them so; returns the number of layers that are whole by themselves, 0 without shares.

    Raises UserError where the settings do not allow it.
    """
    if not is_sharded(accelerator):
        return 0
    # Again: by now the settings hold what accelerate's own configuration adds to them.
    if lines := settings.problems_in_shares():
        raise UserError(*lines)
    with reference.network(model) as frozen:
        networks = [model] if frozen is model else [model, frozen]
    for network in networks:
        value_of = None
        if lack_memory(accelerator, network):
            is_copy = network is not model and reference.starts_equal
            value_of = from_shares(model) if is_copy else from_first(accelerator)
        shard(network, task.layers(network), value_of)
    return len(task.layers(model))
