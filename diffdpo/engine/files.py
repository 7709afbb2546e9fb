"""Writing so that a reader, or a run killed half-way, never meets half a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A draft file that becomes ``path`` when the block ends, and vanishes if it fails."""
    # By process: two that write the same file at once must not share a draft.
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
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
    draft = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        old = path.with_name(f".{path.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
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
