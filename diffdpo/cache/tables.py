"""What does not change is computed once: tables of rows on disk, found again by everything their
numbers depend on.

A table is a folder ``<kind>-<digest of its facts>`` of Arrow shards, read through memory maps. Each
shard is written whole or not at all and belongs to a fixed range of rows, so a killed run goes on
where it stood, with any number of processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from datasets import Dataset, Features, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm

from diffdpo.cache.keys import Key
from diffdpo.engine.console import say
from diffdpo.engine.files import atomic_file, write_atomically
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
    be written."""
    place = Path(root).expanduser()
    folder = place / key.folder
    ranges = shards(rows)
    missing = [part for part in ranges if read_shard(folder, part) is None]
    why = reason(place, key, len(missing) < len(ranges))
    accelerator.wait_for_everyone()  # all have looked before anyone writes
    if missing:
        count = sum(map(len, missing))
        say(f"{key.kind:<12} computing {count:,} of {rows:,} rows: {why}; in {folder}")
        write_missing(folder, key, features, missing, compute, accelerator)
        accelerator.wait_for_everyone()
    else:
        say(f"{key.kind:<12} {rows:,} rows read from {folder}")
    found = [read_shard(folder, part) for part in ranges]
    return concatenate_datasets([shard for shard in found if shard is not None])


def is_complete(root: str, key: Key, rows: int) -> bool:
    """Whether nothing of the table would have to be computed."""
    folder = Path(root).expanduser() / key.folder
    return all(read_shard(folder, part) is not None for part in shards(rows))


def shards(rows: int) -> list[range]:
    """The ranges of the shards: a function of the number of rows alone."""
    size = min(LARGEST, STEP * -(-rows // (SHARDS * STEP)))
    return [range(first, min(first + size, rows)) for first in range(0, rows, size)]


def shard_path(folder: Path, part: range) -> Path:
    """The file of one range of rows."""
    return folder / f"{part.start:09d}-{part.stop:09d}.arrow"


def read_shard(folder: Path, part: range) -> Dataset | None:
    """A stored shard; None where there is none, or a damaged one."""
    try:
        shard = Dataset.from_file(str(shard_path(folder, part)))
    except (OSError, ValueError):
        return None
    return shard if len(shard) == len(part) else None


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
        write_atomically(folder / "key.json", json.dumps(key.facts, indent=2) + "\n")
        with tqdm(
            total=sum(map(len, own)), desc=key.kind, unit="row", disable=quiet, leave=False
        ) as bar:
            for part in own:
                with (
                    atomic_file(shard_path(folder, part)) as draft,
                    ArrowWriter(path=str(draft), features=features) as writer,
                ):
                    for row in compute(part):
                        writer.write(row)
                        bar.update()
                    writer.finalize()
    except OSError as error:
        raise UserError(
            f"--precompute_dir {folder.parent}: cannot be written ({error.strerror or error}); what"
            " is whole is kept"
        ) from error


def reason(place: Path, key: Key, begun: bool) -> str:
    """Why something is computed: in what the nearest stored table of its kind differs."""
    if begun:
        return "the others are stored already"
    others = [
        facts
        for path in place.glob(f"{key.kind}-*/key.json")
        if (facts := read_facts(path)) is not None
    ]
    changes = [
        [name for name in key.facts if facts.get(name) != key.facts[name]] for facts in others
    ]
    changes = [names for names in changes if names]
    if not changes:
        return "none are stored yet"
    fewest = min(changes, key=lambda names: len(names))
    return f"those stored differ in {' and '.join(fewest)}"


def read_facts(path: Path) -> dict[str, str] | None:
    """The facts beside a table, where they can be read."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
