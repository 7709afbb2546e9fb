"""What does not change is computed once: tables of rows on disk, found again by everything their
numbers depend on.

A table is a folder ``<kind>-<digest of its facts>`` of Arrow shards, read through memory maps. Each
shard is written whole or not at all and belongs to a fixed range of rows, so a killed run goes on
where it stood, with any number of processes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset, Features, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm

from diffdpo.cache.keys import Key
from diffdpo.engine.console import say
from diffdpo.engine.files import atomic_file, tidy, write_atomically
from diffdpo.errors import UserError

SHARDS = 16  # of a small table at least; a large one has as many as its largest shards allow
STEP = 16  # shards end at a multiple of it, so that the usual batch sizes fill up
LARGEST = 512  # rows of a shard: what a kill can lose

Compute = Callable[[range], Iterable[dict[str, Any]]]


def table(
    root: str, key: Key, features: Features, rows: int, compute: Compute, accelerator: Accelerator
) -> Dataset:
    """``rows`` rows, from disk or from ``compute``, which yields the rows of a range in their
    order.

    Every process computes its share of the missing shards. Raises UserError where the folder cannot
    be written, or where what another process wrote is not there to be read.
    """
    base = Path(root).expanduser()
    folder = base / key.folder
    ranges = shards(rows)
    missing = agreed([span for span in ranges if read_shard(folder, span) is None], accelerator)
    reason = why_computed(base, key, len(missing) < len(ranges))
    accelerator.wait_for_everyone()  # all have looked before anyone writes
    if missing:
        count = sum(map(len, missing))
        say(f"{key.kind:<12} computing {count:,} of {rows:,} rows: {reason}; in {folder}")
        write_missing(folder, key, features, missing, compute, accelerator)
        accelerator.wait_for_everyone()
    else:
        say(f"{key.kind:<12} {rows:,} rows read from {folder}")
    return read_whole(folder, ranges)


def agreed(missing: list[range], accelerator: Accelerator) -> list[range]:
    """The first process's list: the work is shared out by position, so all must hold the same."""
    if accelerator.num_processes == 1:
        return missing
    return broadcast_object_list([missing])[0]


def read_whole(folder: Path, ranges: list[range]) -> Dataset:
    """All rows, in their order. Raises UserError where one is missing: the rows behind it would be
    taken for others."""
    parts = [read_shard(folder, span) for span in ranges]
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts):
        gap = ranges[parts.index(None)]
        raise UserError(
            f"--precompute_dir {folder}: rows {gap.start} to {gap.stop - 1} cannot be read here;"
            " on several machines it must be a folder that all of them share"
        )
    return concatenate_datasets(whole)


def is_complete(root: str, key: Key, rows: int) -> bool:
    """Whether nothing of the table would have to be computed."""
    folder = Path(root).expanduser() / key.folder
    return all(read_shard(folder, span) is not None for span in shards(rows))


def shards(rows: int) -> list[range]:
    """The ranges of the shards: a function of the number of rows alone."""
    size = min(LARGEST, STEP * -(-rows // (SHARDS * STEP)))
    return [range(first, min(first + size, rows)) for first in range(0, rows, size)]


def shard_path(folder: Path, span: range) -> Path:
    """The file of one range of rows."""
    return folder / f"{span.start:09d}-{span.stop:09d}.arrow"


def read_shard(folder: Path, span: range) -> Dataset | None:
    """A stored shard; None where there is none, or a damaged one."""
    try:
        shard = Dataset.from_file(str(shard_path(folder, span)))
    except (OSError, ValueError):
        return None
    return shard if len(shard) == len(span) else None


def write_missing(
    folder: Path,
    key: Key,
    features: Features,
    missing: list[range],
    compute: Compute,
    accelerator: Accelerator,
) -> None:
    """Compute and store this process's share."""
    own = missing[accelerator.process_index :: accelerator.num_processes]
    quiet = not accelerator.is_local_main_process
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if accelerator.is_main_process:
            tidy(folder)
        write_atomically(folder / "key.json", json.dumps(key.facts, indent=2) + "\n")
        with tqdm(
            total=sum(map(len, own)), desc=key.kind, unit="row", disable=quiet, leave=False
        ) as bar:
            for span in own:
                with (
                    atomic_file(shard_path(folder, span)) as draft,
                    ArrowWriter(path=str(draft), features=features) as writer,
                ):
                    for row in compute(span):
                        writer.write(row)
                        bar.update()
                    writer.finalize()
    except OSError as error:
        raise UserError(
            f"--precompute_dir {folder.parent}: cannot be written ({error.strerror or error}); what"
            " is whole is kept"
        ) from error


def why_computed(base: Path, key: Key, begun: bool) -> str:
    """Which facts differ from those of the closest existing table."""
    if begun:
        return "the others are stored already"
    paths = base.glob(f"{key.kind}-*/key.json")
    others = [facts for path in paths if (facts := read_facts(path)) is not None]
    differences = [
        [name for name in key.facts if facts.get(name) != key.facts[name]] for facts in others
    ]
    differences = [names for names in differences if names]
    if not differences:
        return "none are stored yet"
    fewest = min(differences, key=lambda names: len(names))
    return f"those stored differ in {' and '.join(fewest)}"


def read_facts(path: Path) -> dict[str, str] | None:
    """The facts beside a table, where they can be read."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
