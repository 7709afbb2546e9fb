"""Which files of a folder are data, and to which split each belongs: told by whole words of its
path, as the ``datasets`` library does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from datasets.data_files import FILES_TO_IGNORE, NON_WORDS_CHARS, SPLIT_KEYWORDS

from diffdpo.data.made_pairs import RECORD
from diffdpo.errors import UserError, short

BUILDERS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".arrow": "arrow",
}
COMPRESSED = (".gz", ".bz2", ".xz")  # of JSON and CSV; ``datasets`` unpacks them
METADATA = "metadata"  # the file of this name lists the images beside and below it
DEFAULT = "train"  # what ``datasets`` calls the rows of files that name no split
KEYWORDS = {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words}
SEPARATORS = re.compile(f"[{NON_WORDS_CHARS}]+")
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")


def data_files(folder: Path) -> list[Path]:
    """The data files at and below a folder, sorted. Hidden ones and those that describe a data set
    are none of them; where files are called metadata, only these are.

    Raises UserError where there are none.
    """
    files = with_rows(all_files(folder))
    if not files:
        there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        raise UserError(
            f"data set {folder}: no {', '.join(BUILDERS)} files and no metadata.jsonl in it, nor"
            f" folders chosen and rejected; it holds {short(', '.join(there)) or 'nothing'}"
        )
    return files


def has_rows(folder: Path) -> bool:
    """Whether a data file is at or below a folder."""
    return any(is_data(path.name) for path in all_files(folder))


def all_files(folder: Path) -> Iterator[Path]:
    """Every file at and below a folder that is not in a hidden one."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (Path(place) / name for name in names)


def with_rows(paths: Iterable[Path]) -> list[Path]:
    """Those of the files that hold rows, sorted; where some are called metadata, only these."""
    files = sorted(path for path in paths if is_data(path.name) and path.is_file())
    return [file for file in files if unpacked(file).stem == METADATA] or files


def is_data(name: str) -> bool:
    """Whether a file of this name holds rows."""
    ignored = name.startswith(".") or name in FILES_TO_IGNORE or name == RECORD
    return builder_of(Path(name)) is not None and not ignored


def builder_of(path: PurePath) -> str | None:
    """The builder of ``datasets`` that reads a file of this name; None where there is none."""
    plain = unpacked(path)
    builder = BUILDERS.get(plain.suffix.lower())
    # Parquet and Arrow are compressed within.
    return builder if plain == path or builder in ("json", "csv") else None


def unpacked(path: PurePath) -> PurePath:
    """The name of a file without the ending of its compression."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def by_split(folder: Path, files: Iterable[Path]) -> dict[str, list[Path]]:
    """The files of each split. Those that name none are ``train``, where no file is named so;
    beside a ``train`` they are under the empty name."""
    paths = {file: file.relative_to(folder) for file in files}
    plain = {words(path) for path in paths.values() if not by_folder(path)} & set(KEYWORDS)
    splits: dict[str, list[Path]] = {}
    for file, path in paths.items():
        split = by_folder(path) or by_name(path) or ""
        # Beside a file of the plain name, validation_unique is a split of its own.
        if not by_folder(path) and split in {KEYWORDS[word] for word in plain}:
            split = split if words(path) in KEYWORDS else words(path)
        splits.setdefault(split, []).append(file)
    if "" in splits and DEFAULT not in splits:
        splits[DEFAULT] = splits.pop("")
    return splits


def by_folder(path: PurePath) -> str | None:
    """The split that the folders of a path relative to the data folder name, the innermost first;
    None where they name none."""
    return next((split for part in reversed(path.parent.parts) if (split := named_in(part))), None)


def by_name(path: PurePath) -> str | None:
    """The split that a file's own name tells; None where it tells none."""
    shard = SHARD.match(path.stem)
    # A numbered shard bears exactly the name of its split: validation_unique is not validation.
    if shard and path.parent.name == "data":
        return shard[1]
    if shard and named_in(shard[1]):
        return KEYWORDS.get(shard[1], shard[1])  # outside data/ dev is validation, as in dev.csv
    return named_in(path.stem)


def words(path: PurePath) -> str:
    """A file's name without its numbering: validation_unique of validation_unique-00000.parquet."""
    return re.split(r"[-. 0-9]", path.stem)[0].strip("_")


def named_in(name: str) -> str | None:
    """The split that one part of a path names as a whole word; None for none, or more than one."""
    found = {KEYWORDS[word] for word in SEPARATORS.split(name) if word in KEYWORDS}
    return found.pop() if len(found) == 1 else None


def chosen(
    name: str, splits: dict[str, list[Path]], split: str, flag: str | None = None
) -> list[Path]:
    """The files of ``split``: those that are in it, or that bear exactly its name.

    Raises UserError where there are none.
    """
    exact = [file for files in splits.values() for file in files if words(file) == split]
    return splits.get(split) or exact or splits[known(name, splits, split, flag)]


def known(name: str, splits: Iterable[str], split: str, flag: str | None = None) -> str:
    """``split``, which must be among those that there are.

    Raises UserError with those, and with the ``flag`` that chooses among them.
    """
    names = [other for other in splits if other]
    if split not in names:
        how = f"; {flag} {names[0]} reads it" if flag and len(names) == 1 else ""
        found = short(", ".join(names), 200)
        raise UserError(f"data set {name}: has no split {short(split)!r}; found {found}{how}")
    return split
