"""Writes files and folders whole: a reader, or a run killed half-way, never meets half of one.

What is whole is on the disk itself before its name is: a power cut loses none of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffdpo.errors import UserError

DRAFT = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)-(?P<process>\d+)\.tmp$")
HOST = socket.gethostname().replace(".", "_")  # without dots, so that DRAFT can tell it apart
FORGOTTEN = 24 * 3600  # seconds after which a draft of another machine is nobody's
# Of Linux' fcntl.h and fs.h, for renameat2.
AT_FDCWD, RENAME_EXCHANGE = -100, 2
# What file systems answer that cannot flush a folder.
NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def draft_of(path: Path) -> Path:
    """The path of the draft that becomes ``path``."""
    # Beside it, because a rename is atomic within one file system alone. Named by host and process:
    # two that write the same file must not share a draft, and ``tidy`` can tell the draft of a
    # killed process from one that is being written.
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A draft file that becomes ``path`` when the block ends, and is deleted if the block fails."""
    draft = draft_of(path)
    try:
        yield draft
        sync(draft)
        publish(draft, path)
    except BaseException:  # Ctrl-C as well
        draft.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step.

    Raises UserError where the disk does not take it; the old content stays.
    """
    try:
        with atomic_file(path) as draft:
            draft.write_text(text)
    except OSError as error:
        raise UserError(
            f"{path}: could not be written ({error.strerror or error}); what was there stays as it"
            " was; mend that and start again"
        ) from error


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A draft folder that becomes ``path`` when the block ends; deleted if the block fails."""
    with draft_folder(path) as draft:
        yield draft
        sync_tree(draft)
        publish(draft, path)


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """A draft folder whose entries move into ``folder`` when the block ends.

    They replace entries of the same name; all others stay, such as metrics and checkpoints.
    """
    with draft_folder(folder / ".draft") as draft:
        yield draft
        sync_tree(draft)  # all of them, before the first one moves
        for entry in sorted(draft.iterdir()):
            publish(entry, folder / entry.name)


@contextmanager
def draft_folder(path: Path) -> Iterator[Path]:
    """An empty draft folder beside ``path`` that is gone after the block."""
    draft = draft_of(path)
    remove(draft)
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        remove(draft)


def publish(draft: Path, path: Path) -> None:
    """Rename a draft that is on the disk to ``path``, in whose place it comes."""
    if draft.is_dir() and os.path.lexists(path):
        replace_folder(draft, path)
    else:
        os.replace(draft, path)
    sync(path.parent)


def replace_folder(draft: Path, path: Path) -> None:
    """Put a draft folder in the place of what is there, which a plain rename cannot."""
    if exchange(draft, path):
        remove(draft)  # now the old content
        return
    # After a kill between the two renames the content lies under the old name, from where ``tidy``
    # can put it back.
    old = path.with_name(f".{path.name}.old")
    remove(old)
    os.replace(path, old)
    os.replace(draft, path)
    remove(old)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; returns whether the system could."""
    swap = getattr(ctypes.CDLL(None), "renameat2", None)  # Linux alone has it
    names = (os.fsencode(one), os.fsencode(other))
    return swap is not None and not swap(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """The same for a folder and all that is in it."""
    for entry in (path, *path.rglob("*")):
        sync(entry)


def tidy(folder: Path, alone: bool = False) -> None:
    """Clean up after killed processes: remove their drafts, put a half-renamed folder back.

    ``alone``: no process of another machine writes in this folder.
    """
    for path in folder.glob(".*.tmp"):
        match = DRAFT.match(path.name)
        if match and is_left(path, match["host"], int(match["process"]), alone):
            remove(path)
    for old in folder.glob(".*.old"):
        target = folder / old.name.removeprefix(".").removesuffix(".old")
        if target.exists():
            remove(old)
        else:
            os.replace(old, target)


def is_left(draft: Path, host: str, process: int, alone: bool) -> bool:
    """Whether no process is writing this draft any more."""
    if host == HOST:
        return process == os.getpid() or not is_alive(process)
    # Whether a process elsewhere is alive cannot be asked from here. In a container the name of
    # this machine may be another one after every start.
    return alone or time.time() - draft.stat().st_mtime > FORGOTTEN


def remove(path: Path) -> None:
    """Delete a file, a link or a folder, if it is still there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(process, 0)  # signal 0 only asks whether there is one
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
