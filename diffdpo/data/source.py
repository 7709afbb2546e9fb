"""Opens a data set: hub id, parquet, json, jsonl, csv, a ``save_to_disk`` folder, or a folder with
metadata.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict

from diffdpo.data.paths import missing_data
from diffdpo.errors import UserError

BUILDERS = {
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".arrow": "arrow",
}


def open_dataset(
    name: str, split: str, config: str | None = None, cache_dir: str | None = None
) -> Dataset:
    """The rows of ``split``.

    Raises UserError where nothing is found, the split does not exist, the files cannot be parsed,
    or no row is there.
    """
    try:
        dataset = _open(name, split, config, cache_dir)
    except UserError:
        raise
    except Exception as error:  # the loaders raise a different type for every broken file
        reason = " ".join(str(error.__cause__ or error).split())[:300]
        raise UserError(f"data set {name}: cannot be read ({reason})") from error
    if len(dataset) == 0:
        raise UserError(f"data set {name}, split {split}: has no rows")
    return dataset


def _open(name: str, split: str, config: str | None, cache_dir: str | None) -> Dataset:
    """The rows of ``split``, by the loader for what ``name`` is. A local path goes first, so that a
    hub data set of the same name never takes its place."""
    path = Path(name)
    if not path.exists():
        if mistakes := missing_data(name):
            raise UserError(*mistakes)
        try:
            return datasets.load_dataset(name, config, split=split, cache_dir=cache_dir)
        except (
            datasets.exceptions.DatasetNotFoundError,
            FileNotFoundError,
            ConnectionError,
            OSError,
        ) as error:
            raise UserError(
                f"data set {name}: neither a local path nor to be had from the hub"
            ) from error
    if path.is_file():
        return read_files(name, [path], cache_dir)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = datasets.load_from_disk(name)
        return pick_split(name, saved, split) if isinstance(saved, DatasetDict) else saved
    if (path / "metadata.jsonl").exists():
        return read_files(name, [path / "metadata.jsonl"], cache_dir)
    return read_files(name, split_files(path, split), cache_dir)


def read_files(name: str, files: list[Path], cache_dir: str | None) -> Dataset:
    """Local files of one type, told by their ending."""
    builder = BUILDERS.get(files[0].suffix)
    if builder is None:
        endings = ", ".join(BUILDERS)
        raise UserError(
            f"data set {name}: files ending in {files[0].suffix or 'nothing'} are not read"
            f" ({endings} are)"
        )
    paths = [str(file) for file in files]
    # The loader calls whatever files it is given "train".
    try:
        return datasets.load_dataset(builder, data_files=paths, split="train", cache_dir=cache_dir)
    except Exception as error:
        # The loader does not say where; only JSON can be looked through again.
        mistakes = [json_mistake(file) for file in files] if builder == "json" else []
        if first := next((mistake for mistake in mistakes if mistake), None):
            raise UserError(f"data set {name}: cannot be read ({first})") from error
        raise


def json_mistake(file: Path) -> str | None:
    """What is wrong with a JSON or JSON-lines file: the line where it is broken, or the row that
    holds another type than the rows before it. None where nothing is."""
    try:
        rows = json_rows(file.read_text())
    except json.JSONDecodeError as error:
        return f"{file}, line {error.lineno}: {error.msg}"
    except UnicodeDecodeError:
        return f"{file}: not UTF-8 text"
    # A column has one type in Arrow, so a row of another one fails the whole file.
    types: dict[str, str] = {}
    for line, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            return f"{file}, row {line}: a {type(row).__name__}, not an object with named columns"
        for column, value in row.items():
            kind = type(value).__name__
            if value is not None and types.setdefault(column, kind) != kind:
                return (
                    f"{file}, row {line}: column {column} holds {kind}, in the rows before"
                    f" {types[column]}"
                )
    return None


def json_rows(text: str) -> list[Any]:
    """The rows of a JSON list or of JSON lines. Raises JSONDecodeError with the line number in the
    file."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            error.lineno = number  # json counts from the text it was given, a single line
            raise
    return rows


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split in a folder: those whose path names it, or all where none names a split.
    Raises UserError where there are no files, or none of this split."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in BUILDERS)
    if not files:
        raise UserError(
            f"data set {folder}: no {', '.join(BUILDERS)} files and no metadata.jsonl in it"
        )
    named = [file for file in files if split in file.relative_to(folder).as_posix()]
    others = [s for s in ("train", "validation", "test") if any(s in f.name for f in files)]
    if not named and others:
        raise UserError(f"data set {folder}: has no split {split!r}; found {', '.join(others)}")
    return named or files


def pick_split(name: str, saved: DatasetDict, split: str) -> Dataset:
    """One split of a saved dictionary."""
    if split not in saved:
        raise UserError(f"data set {name}: has no split {split!r}; found {', '.join(saved)}")
    return saved[split]


def check_columns(format_name: str, needed: Iterable[str], columns: list[str]) -> None:
    """Raises UserError where the data lack a column of the format that was asked for."""
    if missing := [column for column in needed if column not in columns]:
        raise UserError(
            f"--data_format {format_name}: the data have no column {', '.join(missing)}; there are"
            f" {', '.join(columns)}"
        )
