"""Prompts from whatever people keep them in: a text file, a table, a list, a data set."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from diffdpo.data.columns import listed
from diffdpo.data.paths import missing_data
from diffdpo.data.source import json_rows, open_dataset
from diffdpo.data.splits import DEFAULT, by_name
from diffdpo.engine.console import say
from diffdpo.errors import UserError, short

# The columns that hold prompts, in the order in which they are looked for; letters of any case.
COLUMNS = ("prompt", "caption", "prompts", "text", "instruction", "question")


def read_prompts(
    name: str,
    split: str = "train",
    config: str | None = None,
    cache_dir: str | None = None,
    as_written: bool = False,
) -> list[str]:
    """The distinct prompts of ``name``, in their order; with single spaces, or ``as_written``.

    That is a .txt file with one on each line, a .tsv file, a .json or .jsonl file of texts or of
    objects, or any data set that ``open_dataset`` reads, with one of ``COLUMNS``. A single file is
    read whole, whatever ``split`` says.

    Raises UserError where there is no prompt, or no such column.
    """
    if mistakes := missing_data(name):
        raise UserError(*mistakes)
    texts = read_all(name, split, config, cache_dir)
    words = [text for text in texts if is_text(text) and text.strip()]
    prompts = words if as_written else [" ".join(text.split()) for text in words]
    distinct = list(dict.fromkeys(prompts))
    others = [text for text in texts if text is not None and not is_text(text)]
    if not distinct:
        raise UserError(
            f"prompts {name}: none is there" + (f", but {kind(others[0])}" if others else "")
        )
    if left := len(texts) - len(distinct) - len(others):
        say(f"prompts      {len(distinct):,}; {left:,} empty or repeated ones are left out")
    if others:
        what = f"{len(others):,} are no text ({kind(others[0])})"
        say(f"note         prompts {name}: {what}; left out")
    return distinct


def is_text(value: Any) -> bool:
    """Whether a value is text that can be written: half a character, as JSON may hold, is none."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def kind(value: Any) -> str:
    """What stands where a text is wanted, in a few words."""
    if isinstance(value, str):
        return f"half a character in {short(ascii(value), 40)}"
    return f"{type(value).__name__} {short(value, 40)}"


def read_all(name: str, split: str, config: str | None, cache_dir: str | None) -> list[Any]:
    """The prompts of all rows, whatever they are."""
    path = Path(name)
    ending = path.suffix.lower() if path.is_file() else ""
    if ending in (".txt", ".tsv"):
        text = read_text(path)
        return lines_of(text) if ending == ".txt" else from_table(name, text)
    if ending in (".json", ".jsonl"):
        return from_json(name, read_text(path))
    split = (by_name(path) or DEFAULT) if path.is_file() else split
    rows = open_dataset(name, split, config, cache_dir, "--split")
    return list(rows[column_of(name, rows.column_names)])


def read_text(path: Path) -> str:
    """The text of a file. Raises UserError where it cannot be read."""
    try:
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts {path}: cannot be read as UTF-8 ({short(error)})") from error


def lines_of(text: str) -> list[str]:
    """The lines of a text that was read with \\n at their ends."""
    # Not splitlines: U+2028 and its like stand within captions.
    return text.removesuffix("\n").split("\n") if text else []


def from_table(name: str, text: str) -> list[Any]:
    """The prompts of a table with tabs between its columns and their names above."""
    # Strict: a quotation mark that is never closed would take the rows behind it for one prompt.
    reader = csv.reader(io.StringIO(text), delimiter="\t", strict=True)
    try:
        header, *rest = list(reader) or [[]]
    except csv.Error as error:
        raise UserError(
            f"prompts {name}: up to line {reader.line_num} cannot be read ({short(error)})"
        ) from error
    place = header.index(column_of(name, header))
    return [row[place] if place < len(row) else None for row in rest]


def from_json(name: str, text: str) -> list[Any]:
    """The prompts of a JSON list or of JSON lines: texts, or objects with a column of them."""
    try:
        rows = json_rows(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", "?")
        raise UserError(f"prompts {name}, line {line}: no JSON ({short(error)})") from error
    # Tables of a data set may lack a column in some rows, so all are looked at.
    columns = list(dict.fromkeys(key for row in rows if isinstance(row, dict) for key in row))
    column = column_of(name, columns) if columns else ""
    return [row.get(column) if isinstance(row, dict) else row for row in rows]


def column_of(name: str, columns: list[str]) -> str:
    """The column that holds the prompts. Raises UserError where there is none."""
    by_name = {column.lower(): column for column in reversed(columns)}
    for wanted in COLUMNS:
        if wanted in by_name:
            return by_name[wanted]
    raise UserError(
        f"prompts {name}: no column {', '.join(COLUMNS)}; there are {listed(columns, 90)}"
    )


def read_rows(name: str) -> dict[str, dict[str, Any]]:
    """The objects of a .json or .jsonl file of prompts, by prompt; none of any other source."""
    path = Path(name)
    if not path.is_file() or path.suffix.lower() not in (".json", ".jsonl"):
        return {}
    rows = [row for row in json_rows(read_text(path)) if isinstance(row, dict)]
    column = (
        column_of(name, list(dict.fromkeys(key for row in rows for key in row))) if rows else ""
    )
    return {" ".join(row[column].split()): row for row in rows if isinstance(row.get(column), str)}
