"""The data sets that settings of text training name: one or several, to train on or held out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffdpo.data.paths import split_words
from diffdpo.errors import short
from diffdpo.flags import unfit_text

# What an entry of a list of data sets may say: TRL's words, and alignment-handbook's weight.
ENTRY = ("path", "name", "split", "columns", "fraction", "weight")
SHARES = ("fraction", "weight")
FILES = ("data_files", "data_dir")  # of ``load_dataset``
NAMED = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """A data set: its hub id, folder, file or entry of a registry, and which part of it."""

    name: str
    split: str
    config: str | None = None
    columns: list[str] = field(default_factory=list)  # the only ones read; none: all
    label: str = ""  # what lines and figures call it; '' of one alone


def parted(word: str) -> tuple[str, str]:
    """The name and the data set of ``NAME=DATA``; the name is '' where there is none."""
    match = None if Path(word).exists() else NAMED.fullmatch(word)
    return (match[1], match[2]) if match else ("", word)


def the_one(recorded: Any) -> str | None:
    """The data set that a run recorded; None where it has none, or several to choose from."""
    names = split_words([recorded] if isinstance(recorded, str) else recorded or [])
    return parted(names[0])[1] if len(names) == 1 else None


def labelled(sources: Sequence[Source]) -> list[Source]:
    """Data sets with what lines and figures call them: the last parts of their names, or as much
    more as it takes to tell them apart. One alone needs no name."""
    if len(sources) == 1:
        return [replace(one, label="") for one in sources]
    last = [last_part(one.name) for one in sources]
    found = [last, [one.name for one in sources]]
    found.append([f"{part} {one.split}" for part, one in zip(last, sources, strict=True)])
    found.append([f"{one.name} {one.config} {one.split}" for one in sources])
    labels = next((names for names in found if len({*names}) == len(names)), last)
    return [replace(one, label=label) for one, label in zip(sources, labels, strict=True)]


def last_part(name: str) -> str:
    """The last part of a hub id or path, of a file without its ending."""
    path = Path(name)
    return (path.stem if path.is_file() else path.name) or name


def distinct(sources: Sequence[Source]) -> list[Source]:
    """Data sets of which none stands twice."""
    return list({(one.name, one.split, one.config): one for one in sources}.values())


def entry_problems(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for the first mistake in each entry of a list of data sets."""
    found = [entry_problem(entry) for entry in entries]
    for key in SHARES:
        have = sum(entry.get(key) is not None for entry in entries)
        if 0 < have < len(entries):
            found.append(f"--datasets: {key} stands in {have} of {len(entries)} entries; give all")
    return [line for line in found if line]


def entry_problem(entry: Mapping[str, Any]) -> str:
    """What is wrong with an entry; '' where nothing is."""
    given = plain_entry(entry)
    if own := [key for key in given if key in FILES]:
        return f"--datasets: {own[0]}: write the file or folder itself as the path"
    if unknown := [str(key) for key in given if key not in ENTRY]:
        return f"--datasets: {short(unknown[0])} is unknown; known: {', '.join(ENTRY)}"
    if not given.get("path"):
        return "--datasets: an entry has no path"
    if set(SHARES) <= set(given):
        return "--datasets: an entry has a fraction and a weight; keep one"
    for key, value in given.items():
        if reason := misfit_of(key, value):
            return f"--datasets: {key} {short(repr(value))} {reason}"
    return ""


def misfit_of(key: str, value: Any) -> str:
    """Why an entry cannot have this value; '' where it can."""
    if key in SHARES:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return "" if number and 0 < value < float("inf") else "is no number above 0"
    texts = value if key == "columns" and isinstance(value, list) else [value]
    if not all(isinstance(text, str) and text for text in texts):
        return "is no list of names" if key == "columns" else "is no name"
    if key == "columns" and not isinstance(value, list):
        return "is no list of names"
    return "cannot be a name" if any(unfit_text(key, text) for text in texts) else ""


def plain_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without what is null."""
    return {key: value for key, value in entry.items() if value is not None}


def shares_of(entries: Sequence[Mapping[str, Any]]) -> tuple[str, list[float]] | None:
    """The key of the entries' shares, and these; None where they have none."""
    for key in SHARES:
        if all(entry.get(key) is not None for entry in entries):
            return key, [float(entry[key]) for entry in entries]
    return None


def twice(sources: Sequence[Source], flag: str) -> list[str]:
    """A line for each data set that is named twice."""
    known = Counter((one.name, one.split, one.config) for one in sources)
    return [
        f"--{flag}: {short(name)}, split {short(split)}, is named twice; a weight says how often a"
        " data set is taken"
        for (name, split, _), count in known.items()
        if count > 1
    ]
