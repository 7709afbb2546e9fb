"""The shards of a table computed by Ray, for those who have a cluster: ``pip install
'diffdpo[ray]'``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, Features
from tqdm.auto import tqdm

from diffdpo.cache.disk import place, writable
from diffdpo.cache.filling import Compute, Filler
from diffdpo.cache.keys import Key
from diffdpo.cache.shards import UNKNOWN, Cost, ranges_in, shard_path
from diffdpo.cache.tables import begin, read_whole
from diffdpo.errors import EXTRAS, UserError


def table_on_ray(
    root: str,
    key: Key,
    features: Features,
    rows: int,
    make_compute: Callable[[], Compute],
    workers: int,
    gpus: float = 0.0,
    cost: Cost = UNKNOWN,
) -> Dataset:
    """The table that ``cache.tables.table`` computes, its missing shards by a pool of ``workers``
    actors of Ray Data with so many ``gpus`` each.

    ``make_compute`` is called once in every actor, loads what it needs, and returns what yields the
    rows of a range. ``root`` must be a folder that all actors see. An actor that is lost is
    replaced, and so is its work; processes outside of Ray may share it by the same claims.

    Raises UserError where Ray is not installed, or the folder cannot be written.
    """
    try:
        from ray import data
    except ImportError as error:
        raise UserError(EXTRAS["ray"]) from error
    folder = place(root) / key.folder
    ranges = ranges_in(folder, rows, cost)
    missing = [span for span in ranges if not shard_path(folder, span).exists()]
    if missing:
        with writable(folder):
            begin(folder, key)
        spans = [{"start": span.start, "stop": span.stop} for span in missing]
        data.from_items(spans, override_num_blocks=len(spans)).map_batches(
            Worker,
            fn_constructor_args=(str(folder), features, make_compute, cost.held),
            batch_size=1,
            concurrency=workers,
            num_gpus=gpus or None,
        ).materialize()
    return read_whole(folder, ranges)


class Worker:
    """An actor that computes ranges of a table."""

    def __init__(
        self, folder: str, features: Features, make_compute: Callable[[], Compute], held: int
    ) -> None:
        self.filler = Filler(Path(folder), features, make_compute(), held)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        spans = map(range, map(int, batch["start"]), map(int, batch["stop"]))
        self.filler.fill(list(spans), tqdm(disable=True))
        return batch
