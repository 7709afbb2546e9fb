"""Writing so that a reader, or a run killed half-way, never meets half a file."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DRAFT = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)-(?P<process>\d+)\.tmp$")
HOST = socket.gethostname().replace(".", "_")


def draft_of(path: Path) -> Path:
    """Where ``path`` is written first. By process: two that write the same file at once must not
    share a draft; and one that was killed can be told from one that is still writing."""
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A draft file that becomes ``path`` when the block ends, and vanishes if it fails."""
    draft = draft_of(path)
    try:
        yield draft
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step."""
    with atomic_file(path) as draft:
        draft.write_text(text)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A draft folder that becomes ``path`` when the block ends, and vanishes if it fails."""
    draft, old = draft_of(path), path.with_name(f".{path.name}.old")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            # No system call exchanges two folders everywhere; ``tidy`` puts back what a kill
            # between these two lines leaves under the old name.
            os.replace(path, old)
        os.replace(draft, path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """A draft folder whose entries move into ``folder`` one by one when the block ends, replacing
    what is there."""
    with atomic_folder(folder / ".draft") as draft:
        yield draft
        for entry in sorted(draft.iterdir()):
            target = folder / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    (folder / ".draft").rmdir()


def tidy(folder: Path) -> None:
    """Remove the drafts that killed processes of this machine left in ``folder``, and put back a
    folder that a kill caught between its two names."""
    for path in folder.glob(".*.tmp"):
        match = DRAFT.match(path.name)
        if match and match["host"] == HOST and not is_alive(int(match["process"])):
            remove(path)
    for old in folder.glob(".*.old"):
        target = folder / old.name.removeprefix(".").removesuffix(".old")
        if target.exists():
            remove(old)
        else:
            os.replace(old, target)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is still there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
