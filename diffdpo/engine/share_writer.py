"""Writes a checkpoint of which every process holds a share, so that none gathers all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffdpo.engine.averages import Averages, tensors_of
from diffdpo.engine.checkpoint import Snapshot, path_of, told_of, trainable
from diffdpo.engine.checkpoint_state import seal
from diffdpo.engine.files import publish, remove, sync_tree
from diffdpo.engine.optimizer_state import copies, flatten
from diffdpo.engine.sharding import first_rows, local
from diffdpo.engine.shares import Share, gather_words, write_share


def snapshot_of_share(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    averages: Averages,
    is_first: bool,
) -> Snapshot:
    """The share of the run as it is now that this process holds, copied to CPU memory; the first
    process has what is not in shares as well."""
    own = trainable(model)
    tensors, values = flatten(optimizer.state_dict(), list(own))
    parts = (own, tensors, tensors_of(averages))
    first = first_rows({k: v for part in parts for k, v in part.items()}, is_first)
    shares = ({k: local(v.detach()) for k, v in part.items() if k in first} for part in parts)
    weights, tensors, means = map(copies, shares)
    return Snapshot(weights, tensors, {**state, "optimizer": values}, means, first)


def write_in_shares(output_dir: Path, moment: Snapshot, share: Share) -> None:
    """Write this process's share of a checkpoint into the draft folder; the first process makes it
    the checkpoint when all have written theirs. Raises UserError as ``write`` does."""
    path = path_of(output_dir, moment.state)
    try:
        with told_of(path):
            write_share(share, moment.parts, moment.first)
            if share.number == 0:
                seal(share.draft, moment.state, gather_words(share))
                sync_tree(share.draft)
                publish(share.draft, path)
    finally:
        if share.number == 0:
            remove(share.draft)
