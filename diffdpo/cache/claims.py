"""Claims of files that are to be computed: whoever makes the claim file first computes.

No launcher is needed, only a folder that all processes see. A claim is kept alive by its holder and
is nobody's once that has stopped, so that what a slow or a lost machine leaves is done by others.
Claims save work and decide nothing else: where two processes hold the same one after all, both
write the same bytes, each at once and whole.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from diffdpo.engine.files import HOST, draft_of
from diffdpo.engine.lock import Holder, read_holder, start_of

BEAT = 10.0  # seconds between two signs of life
PATIENCE = 60.0  # seconds without one after which a claim is nobody's


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Inside, True: ``path`` is this process's to write; or False: it is another one's."""
    claim = claim_of(path)
    if not take(claim):
        yield False
        return
    done = threading.Event()
    beat = threading.Thread(target=keep_alive, args=(claim, done), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        done.set()
        beat.join()
        give_back(claim)


def claim_of(path: Path) -> Path:
    """The claim file of ``path``."""
    return path.with_name(f".{path.name}.claim")


def take(claim: Path) -> bool:
    """Make the claim file; returns False where another process holds it."""
    if made(claim):
        return True
    if not is_abandoned(claim):
        return False
    claim.unlink(missing_ok=True)
    return made(claim)


def made(claim: Path) -> bool:
    """Whether this call has made the file: of several processes one alone can."""
    try:
        descriptor = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(asdict(own())))
    return True


def own() -> Holder:
    """This process."""
    return Holder(HOST, os.getpid(), start_of(os.getpid()))


def holder_of(claim: Path) -> Holder | None:
    """The process that a claim file names; None where it names none yet."""
    descriptor = os.open(claim, os.O_RDONLY)
    try:
        return read_holder(descriptor)
    finally:
        os.close(descriptor)


def is_abandoned(claim: Path) -> bool:
    """Whether the process that made the claim has ended, or has given no sign of life for long."""
    try:
        holder, last = holder_of(claim), claim.stat().st_mtime
    except FileNotFoundError:
        return True  # it was given back meanwhile
    if holder is not None and holder.is_gone():
        return True
    return clock(claim.parent) - last > PATIENCE


def clock(folder: Path) -> float:
    """The time by the clock that dates the files of a folder: that of a server, where it lies on
    one."""
    probe = draft_of(folder / "clock")
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def keep_alive(claim: Path, done: threading.Event) -> None:
    """Give signs of life until the work is done."""
    while not done.wait(BEAT):
        with suppress(OSError):  # it may be another's by now, or the server not answer
            os.utime(claim)


def give_back(claim: Path) -> None:
    """Delete the claim file, unless another process has taken it over."""
    with suppress(OSError):
        if holder_of(claim) == own():
            claim.unlink()
