"""Writes files and folders whole: a reader, or a run killed half-way, never meets half of one."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DRAFT = re.compile(r"\.(?P<name>.+)\.(?P<host>[^.]+)-(?P<process>\d+)\.tmp$")
HOST = socket.gethostname().replace(".", "_")  # without dots, so that DRAFT can tell it apart


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
        os.replace(draft, path)
    except BaseException:  # Ctrl-C as well
        draft.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step."""
    with atomic_file(path) as draft:
        draft.write_text(text)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A draft folder that becomes ``path`` when the block ends; deleted if the block fails."""
    draft, old = draft_of(path), path.with_name(f".{path.name}.old")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            # A rename replaces a file but not a full folder. After a kill between these two lines
            # the content lies under the old name, from where ``tidy`` can put it back.
            os.replace(path, old)
        os.replace(draft, path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """A draft folder whose entries move into ``folder`` when the block ends.

    They replace entries of the same name; all others stay, such as metrics and checkpoints.
    """
    with atomic_folder(folder / ".draft") as draft:
        yield draft
        for entry in sorted(draft.iterdir()):
            target = folder / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    (folder / ".draft").rmdir()


def tidy(folder: Path) -> None:
    """Clean up after killed processes: remove their drafts, put a half-renamed folder back."""
    # Of this machine alone: whether a process elsewhere is alive cannot be asked from here.
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
        os.kill(process, 0)  # signal 0 only asks whether there is one
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
