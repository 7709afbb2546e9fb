"""Tables of rows that are computed once and kept on disk, named by all that they depend on.

A table is a folder ``<kind>-<digest of its facts>`` of Arrow shards, read through memory maps. Each
shard is written whole or not at all, ends with a digest of its bytes, and belongs to a fixed range
of rows. So a killed run goes on where it stopped, with any number of processes, and a damaged shard
is computed anew. Processes take the next shard that none has claimed, whether a launcher has
started them together or not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset, Features, concatenate_datasets
from datasets.arrow_writer import ArrowWriter
from tqdm.auto import tqdm

from diffdpo.cache.claims import claim_of, claimed
from diffdpo.cache.keys import Key
from diffdpo.cache.seal import Shard, seal, state_of
from diffdpo.engine.console import say
from diffdpo.engine.files import atomic_file, tidy, write_atomically
from diffdpo.errors import UserError, short

# A table has up to 16 shards, which several processes share, and more of them where a shard would
# exceed 512 rows: a kill loses at most one shard a process.
SHARDS, LARGEST = 16, 512
STEP = 16  # shards are a multiple of it, so that batches of the usual sizes fill them evenly
POLL = 0.5  # seconds between two looks at shards that other processes compute

Compute = Callable[[range], Iterable[dict[str, Any]]]


def table(
    root: str,
    key: Key,
    features: Features,
    rows: int,
    compute: Compute,
    accelerator: Accelerator,
    ranges: Sequence[range] | None = None,
) -> Dataset:
    """A table of ``rows`` rows: read from disk, with missing shards computed and stored first.

    ``compute`` yields the rows of a range in their order. Every process computes a share of the
    missing shards. ``ranges`` are those of the shards, for a table of others than ``shards(rows)``.

    Raises UserError where the folder cannot be written, or where a shard that another process wrote
    cannot be read here.
    """
    base = place(root)
    folder = base / key.folder
    ranges = shards(rows) if ranges is None else ranges
    # Where all have gathered, all have looked before anyone writes.
    missing = missing_shards(folder, ranges, accelerator)
    if accelerator.is_main_process:
        tidy(folder)
        with writable(folder):
            remove_damaged(folder, missing)
    reason = reason_to_compute(base, key, len(missing) < len(ranges))
    accelerator.wait_for_everyone()
    if missing:
        count = sum(map(len, missing))
        say(f"{key.kind:<12} computing {count:,} of {rows:,} rows: {reason}; in {folder}")
        write_missing(folder, key, features, missing, compute, accelerator)
        accelerator.wait_for_everyone()
    else:
        say(f"{key.kind:<12} {rows:,} rows read from {folder}")
    return read_whole(folder, ranges)


def place(root: str) -> Path:
    """The folder that holds tables. Raises UserError where its name is no text."""
    if root.encode(errors="ignore").decode() != root:
        raise UserError(f"--precompute_dir {short(ascii(root))}: holds bytes that are not text")
    return Path(root).expanduser()


def missing_shards(folder: Path, ranges: Sequence[range], accelerator: Accelerator) -> list[range]:
    """The shards that are to be computed: those that are not there, and those that are damaged.

    Every process checks a share of them, and all get the same list.
    """
    own = ranges[accelerator.process_index :: accelerator.num_processes]
    with ThreadPoolExecutor() as threads:  # digests are computed outside of Python's lock
        states = list(threads.map(lambda span: state_of(shard_path(folder, span)), own))
    found = [(span, counted(folder, span, state)) for span, state in zip(own, states, strict=True)]
    if accelerator.num_processes > 1:
        found = gather_object(found)
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
    return concatenate_datasets(whole)


def is_complete(
    root: str,
    key: Key,
    rows: int,
    accelerator: Accelerator,
    ranges: Sequence[range] | None = None,
) -> bool:
    """Whether all rows of the table are stored already, and whole; to be asked by all processes."""
    ranges = shards(rows) if ranges is None else ranges
    return not missing_shards(place(root) / key.folder, ranges, accelerator)


def shards(rows: int, largest: int = LARGEST) -> list[range]:
    """The ranges of rows of the shards, a function of the number of rows alone."""
    # Not of the number of processes: another number must find the same files.
    size = min(largest, STEP * -(-rows // (SHARDS * STEP)))
    return [range(first, min(first + size, rows)) for first in range(0, rows, size)]


def shard_path(folder: Path, span: range) -> Path:
    """The file of one range of rows; names sort in the order of the rows."""
    return folder / f"{span.start:09d}-{span.stop:09d}.arrow"


def counted(folder: Path, span: range, state: Shard) -> Shard:
    """The state of a shard, told by its bytes, after a look at its number of rows."""
    # The bytes come first: Arrow takes lengths in a file on trust, and may end the process at a
    # wrong one.
    if state in (Shard.WHOLE, Shard.UNPROVEN) and read_shard(folder, span) is None:
        return Shard.DAMAGED
    return state


def read_shard(folder: Path, span: range) -> Dataset | None:
    """A stored shard; None where it is missing, or Arrow cannot read it."""
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
    """Compute and store the missing shards that no other process computes, and wait for those."""
    quiet = not accelerator.is_local_main_process
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # By every process: the content is the same, and an atomic write may meet another.
        write_atomically(folder / "key.json", json.dumps(key.facts, indent=2) + "\n")
        with tqdm(
            total=sum(map(len, missing)), desc=key.kind, unit="row", disable=quiet, leave=False
        ) as bar:
            left = missing
            while left:
                busy = [span for span in left if not settle(folder, span, features, compute, bar)]
                if len(busy) == len(left):
                    time.sleep(POLL)
                left = busy
        for span in missing:  # of processes that ended between the shard and the claim
            claim_of(shard_path(folder, span)).unlink(missing_ok=True)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turns a disk that takes no more into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--precompute_dir {folder.parent}: cannot be written ({error.strerror or error}); what"
            " is whole is kept"
        ) from error


def settle(folder: Path, span: range, features: Features, compute: Compute, bar: Any) -> bool:
    """Compute and store a shard, unless it is there; returns False where another process is at
    it."""
    path = shard_path(folder, span)
    if not path.exists():
        with claimed(path) as ours:
            if not ours:
                return False
            if not path.exists():
                write_shard(path, features, compute(span), bar)
                return True
    bar.update(len(span))
    return True


def write_shard(path: Path, features: Features, rows: Iterable[dict[str, Any]], bar: Any) -> None:
    """Store the rows of a shard, whole or not at all."""
    with atomic_file(path) as draft:
        with ArrowWriter(path=str(draft), features=features) as writer:
            for row in rows:
                writer.write(row)
                bar.update()
            writer.finalize()
        seal(draft)


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


def read_facts(path: Path) -> dict[str, str] | None:
    """The facts in a table's key.json; None where they cannot be read."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
