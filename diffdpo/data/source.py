"""Opens a data set: hub id, parquet, json, jsonl, csv, a ``save_to_disk`` folder, or a folder of
such files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from glob import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features
from datasets.table import InMemoryTable

from diffdpo.data.columns import lacking, listed
from diffdpo.data.configurations import configured, folder_of
from diffdpo.data.paths import LFS, is_pointer, missing_data
from diffdpo.data.side_folders import side_pairs, two_folders
from diffdpo.data.splits import (
    BUILDERS,
    COMPRESSED,
    DEFAULT,
    builder_of,
    by_name,
    by_split,
    chosen,
    data_files,
    known,
)
from diffdpo.engine.console import say
from diffdpo.errors import UserError, short

FOLDER = "folder of the file that holds this row"  # file names in the row are relative to it
# Of a CSV file an empty field alone has no value; a caption may be NA, None or null.
AS_WRITTEN = {"keep_default_na": False, "na_values": [""]}
SHIFTED = "__index_level_0__"  # a first field without a name, by which all others would shift
Part = tuple[Dataset, Path | None]  # rows, and the folder of the file that holds them


def open_dataset(
    name: str,
    split: str,
    config: str | None = None,
    cache_dir: str | None = None,
    flag: str | None = None,
) -> Dataset:
    """The rows of ``split``; ``flag`` is the one that the user names it with.

    Raises UserError where nothing is found, the split does not exist, the files cannot be parsed,
    or no row is there.
    """
    return concatenated([part for part, _ in opened(name, split, config, cache_dir, flag)])


def open_with_folders(
    name: str,
    split: str,
    config: str | None = None,
    cache_dir: str | None = None,
    flag: str | None = None,
) -> Dataset:
    """The same rows; where they come from files, with a further column ``FOLDER``.

    Raises UserError as ``open_dataset`` does.
    """
    parts = opened(name, split, config, cache_dir, flag)
    for part, _ in parts:
        check_text(name, part)
    folders = list(dict.fromkeys(str(folder) for _, folder in parts))
    features = Features({FOLDER: ClassLabel(names=folders)})

    def with_folder(rows: Dataset, folder: Path | None) -> Dataset:
        if folder is None:
            return rows
        number = np.full(len(rows), folders.index(str(folder)), dtype=np.int64)
        # From Arrow, which takes no look at each row.
        column = Dataset(
            InMemoryTable.from_pydict({FOLDER: number}), DatasetInfo(features=features)
        )
        return datasets.concatenate_datasets([rows, column], axis=1)

    return concatenated([with_folder(rows, folder) for rows, folder in parts])


def concatenated(parts: list[Dataset]) -> Dataset:
    """The rows of all parts, one after another."""
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def opened(
    name: str, split: str, config: str | None, cache_dir: str | None, flag: str | None
) -> list[Part]:
    """The parts of a data set, with at least one row."""
    try:
        parts = _open(name, split, config, cache_dir, flag)
    except UserError:
        raise
    except Exception as error:  # the loaders raise a different type for every broken file
        reason = short(error.__cause__ or error) or type(error).__name__
        raise UserError(f"data set {name}: cannot be read ({reason})") from error
    if not any(len(part) for part, _ in parts):
        raise UserError(f"data set {name}, split {short(split)}: has no rows")
    return parts


def _open(
    name: str, split: str, config: str | None, cache_dir: str | None, flag: str | None
) -> list[Part]:
    """The rows of ``split``, by the loader for what ``name`` is. A local path goes first, so that a
    hub data set of the same name never takes its place."""
    path = Path(name)
    if not path.exists():
        return [(from_hub(name, split, config, cache_dir), None)]
    saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
    if config and (saved or not path.is_dir()):
        raise UserError(f"data set {name}: has no configurations; leave {short(config)} out")
    if saved:
        return [(from_disk(name, split, flag), None)]
    if path.is_dir() and not config and (two := two_folders(path)):
        folder = two[known(name, two, split, flag)]
        return [(side_pairs(folder), folder)]
    if path.is_dir():
        splits = configured(path, config)
        if splits is None:
            path = folder_of(path, config)
            splits = by_split(path, data_files(path))
        if unread := [file.name for file in splits.get("", [])]:
            # Beside files that do name one they belong to no split.
            say(f"note         data set {name}: {listed(unread)}: no split in the name; not read")
        return read_files(name, chosen(name, splits, split, flag), cache_dir)
    if not path.is_file():
        raise UserError(f"data set {name}: is a pipe or a device, not a file")
    known(name, [by_name(path) or DEFAULT], split, flag)
    return read_files(name, [path], cache_dir)


def from_hub(name: str, split: str, config: str | None, cache_dir: str | None) -> Dataset:
    """The rows of a data set on the hub. Raises UserError where it cannot be had."""
    if mistakes := missing_data(name):
        raise UserError(*mistakes)
    try:
        return datasets.load_dataset(name, config, split=split, cache_dir=cache_dir)
    except (datasets.exceptions.DatasetNotFoundError, OSError) as error:
        raise UserError(
            f"data set {short(name, 200)}: neither a local path nor to be had from the hub"
        ) from error


def from_disk(name: str, split: str, flag: str | None) -> Dataset:
    """The rows of a folder that ``save_to_disk`` wrote."""
    saved = datasets.load_from_disk(name)
    if isinstance(saved, DatasetDict):
        return saved[known(name, saved, split, flag)]
    # A slice keeps its brackets in the name: train[:80%].
    known(name, [str(saved.split or DEFAULT).split("[")[0]], split, flag)
    return saved


def read_files(name: str, files: Sequence[Path], cache_dir: str | None) -> list[Part]:
    """The rows of local files of one kind, told by their endings; a part for each folder."""
    if not files:
        raise UserError(f"data set {name}: no {', '.join(BUILDERS)} files for this split")
    kinds = {builder_of(file): file for file in files}
    if None in kinds:
        ending, endings = short(files[0].suffix or "nothing"), ", ".join(BUILDERS)
        raise UserError(
            f"data set {name}: files ending in {ending} are not read ({endings} are; JSON and CSV"
            f" also packed, with {', '.join(COMPRESSED)} behind)"
        )
    if len(kinds) > 1:
        examples = listed(file.name for file in kinds.values())
        raise UserError(
            f"data set {name}: holds files of several kinds ({examples}); name the one to"
            " read, or a folder with one kind"
        )
    (builder,) = kinds
    if pointer := next(filter(is_pointer, files), None):
        raise UserError(f"data set {name}: {short(pointer.name)} {LFS}")
    if not any(file.stat().st_size for file in files):
        raise UserError(f"data set {name}: has no rows ({short(files[0].name)} is empty)")
    return [
        (load(name, str(builder), list(together), cache_dir), folder)
        for folder, together in groupby(files, key=lambda file: file.parent)
    ]


def load(name: str, builder: str, files: list[Path], cache_dir: str | None) -> Dataset:
    """The rows of files, by a builder of the ``datasets`` library."""
    # It takes names for patterns: photos[1].csv would read photos1.csv.
    options: dict[str, Any] = {"data_files": [escape(str(file)) for file in files]}
    if builder == "csv":
        options |= AS_WRITTEN
    # The loader calls whatever files it is given "train".
    try:
        rows = datasets.load_dataset(builder, split="train", cache_dir=cache_dir, **options)
    except Exception as error:
        if isinstance(error.__cause__ or error, UnicodeDecodeError):
            raise UserError(f"data set {name}: not UTF-8 text; save it as UTF-8") from error
        if "corresponds to no data" in str(error):
            raise UserError(f"data set {name}: has no rows") from error
        # The loader does not say where; only JSON can be looked through again.
        mistakes = [json_mistake(file) for file in files] if builder == "json" else []
        if first := next((mistake for mistake in mistakes if mistake), None):
            raise UserError(f"data set {name}: cannot be read ({first})") from error
        raise
    if builder == "csv" and SHIFTED in rows.column_names:
        raise UserError(
            f"data set {name}: has rows of more fields than its header names; a comma in a text"
            " needs quotes round the text"
        )
    return rows


def check_text(name: str, dataset: Dataset) -> None:
    """Raises UserError where a text is not UTF-8: the loaders pass it on, and reading it fails."""
    for column in dataset.column_names:
        row = 0
        for chunk in dataset.data.column(column).chunks:
            try:
                chunk.validate(full=True)
            except pyarrow.ArrowInvalid as error:
                row += next((i for i in range(len(chunk)) if not is_text(chunk[i])), 0)
                raise UserError(
                    f"data set {name}: row {row}, column {short(column)}: not UTF-8 text"
                ) from error
            row += len(chunk)


def is_text(value: pyarrow.Scalar) -> bool:
    """Whether a value of an Arrow table can be read."""
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


def json_mistake(file: Path) -> str | None:
    """What is wrong with a JSON or JSON-lines file: the line where it is broken, or the row that
    holds another type than the rows before it. None where nothing is."""
    try:
        with fsspec.open(str(file), "rt", encoding="utf-8-sig", compression="infer") as text:
            rows = json_rows(text.read())
    except json.JSONDecodeError as error:
        return f"{file}, line {error.lineno}: {error.msg}"
    except RecursionError:
        return f"{file}: lists or objects nested too deep"
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
                    f"{file}, row {line}: column {short(column)} holds {kind}, in the rows before"
                    f" {types[column]}"
                )
    return None


def json_rows(text: str) -> list[Any]:
    """The rows of a JSON list or of JSON lines. Raises JSONDecodeError with the line number in the
    file."""
    if text.lstrip().startswith("["):
        return json.loads(text)
    rows = []
    # Not splitlines: a text may hold U+2028 and other ends of lines that are none to JSON.
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            error.lineno = number  # json counts from the text it was given, a single line
            raise
    return rows


def check_columns(format_name: str, needed: Iterable[str], columns: list[str]) -> None:
    """Raises UserError where the data lack a column of the format that was asked for."""
    if missing := lacking(columns, needed):
        raise UserError(
            f"--data_format {format_name}: the data have no column {missing}; there are"
            f" {listed(columns)}"
        )
