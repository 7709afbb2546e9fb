"""Which files are the shards of a data set: a file, a folder or a pattern, of parquet or tar."""

from __future__ import annotations

from glob import glob
from pathlib import Path

from diffdpo.data.columns import listed
from diffdpo.data.configurations import configured, folder_of
from diffdpo.data.paths import is_pattern
from diffdpo.data.splits import DEFAULT, all_files, by_name, by_split, chosen, data_files, known
from diffdpo.errors import UserError, short

KINDS = (".parquet", ".tar")


def shards_of(name: str, split: str, config: str | None, flag: str) -> list[Path]:
    """The shards of the data set ``name``, sorted; ``flag`` is the one that names the split.

    Raises UserError where there are none, or others than of one kind.
    """
    path = Path(name)
    if is_pattern(name):
        files = sorted(file for file in map(Path, glob(name, recursive=True)) if file.is_file())
        known(name, [DEFAULT], split, flag)
    elif path.is_dir():
        files = in_folder(path, split, config, flag)
    elif path.is_file():
        files = [path]
        known(name, [by_name(path) or DEFAULT], split, flag)
    else:
        raise UserError(
            f"data set {name}: --streaming reads files of this machine; download it first: hf"
            f" download {short(name)} --repo-type dataset --local-dir FOLDER"
        )
    check_kinds(name, files)
    return files


def in_folder(folder: Path, split: str, config: str | None, flag: str) -> list[Path]:
    """The shards of a split in a folder, which are told as the files of any other data set."""
    inner = folder_of(folder, config)
    tars = sorted(file for file in all_files(inner) if file.suffix == ".tar")
    if tars:
        splits = by_split(inner, tars)
    else:
        declared = configured(folder, config)
        splits = by_split(inner, data_files(inner)) if declared is None else declared
    return chosen(str(folder), splits, split, flag)


def check_kinds(name: str, files: list[Path]) -> None:
    """Raises UserError where the files are not all parquet, or all tar."""
    others = [file.name for file in files if file.suffix not in KINDS]
    if others:
        raise UserError(
            f"data set {name}: --streaming reads .parquet and .tar files, not {listed(others)};"
            " leave the flag out, or write parquet"
        )
    if len({file.suffix for file in files}) > 1:
        raise UserError(f"data set {name}: holds parquet and tar files; name those of one kind")
