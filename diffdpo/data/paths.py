"""Tells local paths from hub ids, and gives a line for each path that is not there."""

from __future__ import annotations

from collections.abc import Sequence
from glob import iglob
from pathlib import Path

from diffdpo.config import BaseSettings

POINTER = b"version https://git-lfs"  # the first bytes of a file that Git LFS has not fetched
LFS = "is a Git LFS pointer in place of the file; git lfs pull fetches it"
LONGEST_POINTER = 1024  # bytes


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in its place until it is fetched."""
    if path.stat().st_size > LONGEST_POINTER:
        return False
    with path.open("rb") as file:
        return file.read(len(POINTER)) == POINTER


def is_path(name: str) -> bool:
    """Whether a name cannot be a hub id."""
    return name.startswith((".", "/", "~"))


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern of local files, such as data/*.parquet, that fits one."""
    return "*" in name and not Path(name).exists() and next(iglob(name, recursive=True), "") != ""


def split_words(words: Sequence[str]) -> list[str]:
    """Names of data sets, of which several may stand in a word with commas between them, as
    LLaMA-Factory has it."""
    found: list[str] = []
    for word in words:
        known = "," not in word or Path(word).exists()
        found += [word] if known else [part.strip() for part in word.split(",") if part.strip()]
    return found


def missing_data(name: str | None) -> list[str]:
    """A complaint where a data set must be a local file or folder and is not there."""
    if name is None or Path(name).exists() or is_pattern(name):
        return []
    # A name with an ending is a file, too, unless it has the form user/name of a hub id.
    local = is_path(name) or (name.count("/") != 1 and Path(name).suffix)
    return [f"data set {name}: no such file or folder"] if local else []


def missing_folder(name: str | None, line: str) -> list[str]:
    """The complaint ``line`` where a model must be a local folder and is not there."""
    return [line] if name and is_path(name) and not Path(name).is_dir() else []


def missing_models(settings: BaseSettings, flags: list[str]) -> list[str]:
    """A complaint for each of these flags that names a local folder which is not there."""
    lines = []
    for name in flags:
        value = getattr(settings, name)
        why = "a file; name its folder" if value and Path(value).is_file() else "no such folder"
        lines += missing_folder(value, f"--{name} {value}: cannot be loaded ({why})")
    return lines
