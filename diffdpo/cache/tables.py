"""Tables of rows that are computed once and kept on disk, named by all that they depend on.

A table is a folder ``<kind>-<digest of its facts>`` of Arrow shards, read through memory maps. Each
shard is written whole or not at all, ends with a digest of its bytes, and belongs to a fixed range
of rows. So a killed run goes on where it stopped, with any number of processes, and a damaged shard
is computed anew. Processes take the next shard that none has claimed, whether a launcher has
started them together or not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from accelerate import Accelerator
from datasets import Dataset, Features
from datasets.table import concat_tables

from diffdpo.cache.claims import claim_of
from diffdpo.cache.disk import free_bytes, gib, place, writable
from diffdpo.cache.filling import Compute, Filler, OnePass, Progress
from diffdpo.cache.keys import Key, read_facts
from diffdpo.cache.seal import Shard, state_of
from diffdpo.cache.shards import (
    UNKNOWN,
    Cost,
    counted,
    growing_in,
    ranges_in,
    read_shard,
    shard_path,
    shards,
)
from diffdpo.engine.console import say
from diffdpo.engine.files import tidy, write_atomically
from diffdpo.engine.waiting import gathered, meet
from diffdpo.errors import UserError

WORTH_SAYING = 2**20  # bytes of disk
__all__ = ["Compute", "Cost", "OnePass", "is_complete", "shards", "table"]


def table(
    root: str,
    key: Key,
    features: Features,
    rows: int,
    compute: Compute | OnePass,
    accelerator: Accelerator,
    ranges: Sequence[range] | None = None,
    cost: Cost = UNKNOWN,
    grows: bool = False,
) -> Dataset:
    """A table of ``rows`` rows: read from disk, with missing shards computed and stored first.

    ``compute`` yields the rows of a range in their order, or those of many in one pass. Every
    process computes a share of the missing shards. What a row takes, its ``cost``, decides how
    large shards are; ``ranges`` are those of the shards where they follow another rule. A table
    that ``grows`` has the rows of a shorter one at its beginning, and is read for that one too: it
    may return more rows than ``rows``.

    Raises UserError where the folder cannot be written or has no room for the table, or where a
    shard that another process wrote cannot be read here.
    """
    base = place(root)
    folder = base / key.folder
    ranges = agreed_ranges(folder, rows, cost, grows) if ranges is None else ranges
    # Where all have gathered, all have looked before anyone writes.
    missing = missing_shards(folder, ranges, accelerator)
    if accelerator.is_main_process:
        tidy(folder)
        with writable(folder):
            remove_damaged(folder, missing)
    reason = reason_to_compute(base, key, len(missing) < len(ranges))
    count = sum(map(len, missing))
    size = check_room(base, key.kind, count, cost)
    if missing:
        say(f"{key.kind:<12} computing {count:,} of {rows:,} rows: {reason}; in {folder}{size}")
        write_missing(folder, key, features, missing, compute, accelerator, cost.held)
        meet()
    else:
        say(f"{key.kind:<12} {rows:,} rows read from {folder}")
    return read_whole(folder, ranges)


def check_room(base: Path, kind: str, rows: int, cost: Cost) -> str:
    """What so many rows will take of the disk, for a line. To be asked by all processes.

    Raises UserError where so much is not free.
    """
    needed = rows * cost.bytes
    free = gathered(free_bytes(base))[0]  # one answer for all: others may be writing there
    if needed < WORTH_SAYING:
        return ""
    if needed > free:
        advice = f"; {cost.advice}, or" if cost.advice else ";"
        raise UserError(
            f"--precompute_dir {base}: {rows:,} rows of {kind} need about {gib(needed)} GiB of disk"
            f" and {gib(free)} are free{advice} name a folder on a larger disk"
        )
    return f", about {gib(needed)} of {gib(free)} GiB free"


def missing_shards(folder: Path, ranges: Sequence[range], accelerator: Accelerator) -> list[range]:
    """The shards that are to be computed: those that are not there, and those that are damaged.

    Every process checks a share of them, and all get the same list.
    """
    own = ranges[accelerator.process_index :: accelerator.num_processes]
    with ThreadPoolExecutor() as threads:  # digests are computed outside of Python's lock
        states = list(threads.map(lambda span: state_of(shard_path(folder, span)), own))
    found = [(span, counted(folder, span, state)) for span, state in zip(own, states, strict=True)]
    found = [one for share in gathered(found) for one in share]
    found.sort(key=lambda item: item[0].start)
    for state, name in [(state, shard_path(folder, span).name) for span, state in found]:
        if state is Shard.DAMAGED:
            say(f"note         {folder / name}: damaged; its rows are computed anew")
    if old := [state for _, state in found if state is Shard.UNPROVEN]:
        say(f"note         {folder}: {len(old)} shards of an earlier version have no digest")
    return [span for span, state in found if state in (Shard.MISSING, Shard.DAMAGED)]


def remove_damaged(folder: Path, spans: Sequence[range]) -> None:
    """Delete what is there of these shards, unless another process has computed one meanwhile.

    From then on a shard that is there is whole.
    """
    for span in spans:
        if counted(folder, span, state_of(shard_path(folder, span))) is Shard.DAMAGED:
            shard_path(folder, span).unlink(missing_ok=True)


def read_whole(folder: Path, ranges: Sequence[range]) -> Dataset:
    """All rows in their order. Raises UserError where a shard is missing."""
    # Never fewer rows: those after the gap would be taken for other pairs' rows.
    stored = [read_shard(folder, span) for span in ranges]
    whole = [shard for shard in stored if shard is not None]
    if len(whole) < len(stored):
        gap = ranges[stored.index(None)]
        raise UserError(
            f"--precompute_dir {folder}: rows {gap.start} to {gap.stop - 1} cannot be read here;"
            " on several machines it must be a folder that all of them share"
        )
    # Named here, or the library pickles all of it for a name.
    return Dataset(concat_tables(whole), fingerprint=f"{folder.name}-{ranges[-1].stop}")


def is_complete(
    root: str,
    key: Key,
    rows: int,
    accelerator: Accelerator,
    ranges: Sequence[range] | None = None,
    cost: Cost = UNKNOWN,
) -> bool:
    """Whether all rows of the table are stored already, and whole; to be asked by all processes."""
    folder = place(root) / key.folder
    ranges = agreed_ranges(folder, rows, cost) if ranges is None else ranges
    return not missing_shards(folder, ranges, accelerator)


def agreed_ranges(folder: Path, rows: int, cost: Cost, grows: bool = False) -> list[range]:
    """The ranges of the shards, for all processes those that the first one sees."""
    own = growing_in(folder, rows, cost) if grows else ranges_in(folder, rows, cost)
    found: list[range] = gathered(own)[0]
    return found


def write_missing(
    folder: Path,
    key: Key,
    features: Features,
    missing: Sequence[range],
    compute: Compute | OnePass,
    accelerator: Accelerator,
    held: int,
) -> None:
    """Compute and store the missing shards, with the other processes."""
    quiet, count = not accelerator.is_local_main_process, sum(map(len, missing))
    with writable(folder):
        begin(folder, key)
        with Progress(key.kind, count, accelerator.num_processes, quiet) as bar:
            Filler(folder, features, compute, held).fill(missing, bar)
        for span in missing:  # of processes that ended between the shard and the claim
            claim_of(shard_path(folder, span)).unlink(missing_ok=True)


def begin(folder: Path, key: Key) -> None:
    """Make the folder of a table, with what it is named by."""
    folder.mkdir(parents=True, exist_ok=True)
    # By every process: the content is the same, and an atomic write may meet another.
    write_atomically(folder / "key.json", json.dumps(key.facts, indent=2) + "\n")


def reason_to_compute(base: Path, key: Key, begun: bool) -> str:
    """The reason, for the user: in which facts the closest stored table differs."""
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
