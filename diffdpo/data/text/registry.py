"""Reads an entry of LLaMA-Factory's registry ``dataset_info.json``: where a data set lies, and what
its columns and roles are called."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffdpo.data.text import TextFormat
from diffdpo.data.text.alpaca import alpaca_labels, alpaca_pairs
from diffdpo.data.text.llama_factory import labelled_turns, turns_and_pairs
from diffdpo.data.text.record import MEDIA, Record
from diffdpo.data.text.schema import Example
from diffdpo.errors import UserError, nearest, short

# The keys of an entry that say something about preferences; others are refused.
KEYS = {"file_name", "hf_hub_url", "formatting", "ranking", "columns", "tags", "subset", "split"}
# LLaMA-Factory's names of columns, and what the readers of this package call them.
ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
COMMON = {"system": "system", "tools": "tools", "chosen": "chosen", "rejected": "rejected"}
COMMON |= {"kto_tag": "kto_tag"} | {name: name for name in MEDIA}
SHAREGPT = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user"}
OPENAI |= {"assistant_tag": "assistant", "observation_tag": "tool"}


@dataclass(frozen=True)
class Registered:
    """A data set of the registry."""

    source: str  # a file or folder, or the id on the hub
    split: str | None
    subset: str | None
    format: TextFormat


def registered(file: str, name: str) -> Registered:
    """The entry ``name`` of the registry in ``file``.

    Raises UserError where there is none, or where it asks for what is not done here.
    """
    entry = read_entry(file, name)
    place = f"--dataset_info {file}, {short(name)}"
    if unknown := sorted(set(entry) - KEYS):
        raise UserError(f"{place}: {short(', '.join(unknown))} is not read here; leave it out")
    columns, tags = (table(entry, part, place) for part in ("columns", "tags"))
    formatting = entry.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise UserError(f"{place}: formatting {short(repr(formatting))} is unknown")
    known = (set(ALPACA) if formatting == "alpaca" else {"messages"}) | set(COMMON)
    refuse_others(columns, known, f"{place}: column")
    refuse_others(tags, set(SHAREGPT), f"{place}: tag")
    source = location(entry, Path(file).expanduser().parent, place)
    ranking = bool(entry.get("ranking"))
    if not ranking and "kto_tag" not in columns:
        raise UserError(f"{place}: holds no preferences; it has neither ranking nor a kto_tag")
    first = "prompt" if formatting == "alpaca" else "messages"
    sides = ["chosen", "rejected"] if ranking else ["kto_tag"]
    sides += ["response"] if formatting == "alpaca" and not ranking else []
    # LLaMA-Factory reads no column that the entry leaves out, whatever it is called.
    if lacking := [key for key in (first, *sides) if key not in columns]:
        raise UserError(f"{place}: its columns do not name {', '.join(lacking)}")
    make = alpaca if formatting == "alpaca" else conversations
    names = {**tags_of(formatting), **tags}
    return Registered(
        source, entry.get("split"), entry.get("subset"), make(columns, names, ranking)
    )


def read_entry(file: str, name: str) -> dict[str, Any]:
    """An entry as it stands in the file. Raises UserError where there is none."""
    try:
        entries = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--dataset_info {file}: cannot be read ({short(error)})") from error
    if not isinstance(entries, dict) or not isinstance(entries.get(name), dict):
        names = list(entries) if isinstance(entries, dict) else []
        raise UserError(
            f"--dataset_info {file}: has no data set {short(repr(name))}{nearest(name, names)};"
            f" there are {short(', '.join(names), 200) or 'none'}"
        )
    return dict(entries[name])


def table(entry: Mapping[str, Any], part: str, place: str) -> dict[str, str]:
    """The part ``columns`` or ``tags`` of an entry; what is null there is not given."""
    value = entry.get(part) or {}
    if not isinstance(value, dict):
        raise UserError(f"{place}: {part} is no object")
    return {str(key): str(word) for key, word in value.items() if word is not None}


def refuse_others(given: Mapping[str, str], known: set[str], what: str) -> None:
    """Raises UserError for the first name that is not known."""
    for key in given:
        if key not in known:
            raise UserError(f"{what} {short(repr(key))} is unknown{nearest(key, known)}")


def location(entry: Mapping[str, Any], folder: Path, place: str) -> str:
    """Where the rows are: a file beside the registry, or a data set of the hub."""
    if file := entry.get("file_name"):
        path = folder / str(file)
        if not path.exists():
            raise UserError(f"{place}: {path} is not there")
        return str(path)
    if hub := entry.get("hf_hub_url"):
        return str(hub)
    raise UserError(f"{place}: names neither file_name nor hf_hub_url")


def tags_of(formatting: str) -> dict[str, str]:
    """The words for roles and their fields, where an entry does not give them."""
    return {**SHAREGPT, **OPENAI} if formatting == "openai" else SHAREGPT


def alpaca(columns: Mapping[str, str], tags: Mapping[str, str], ranking: bool) -> TextFormat:
    """The format of an entry with an instruction and one or two answers."""
    read = alpaca_pairs if ranking else alpaca_labels("kto_tag")
    needed = ("chosen", "rejected") if ranking else ("response", "kto_tag")
    return renaming({**ALPACA, **COMMON}, columns, read, ("prompt", *needed))


def conversations(columns: Mapping[str, str], tags: Mapping[str, str], ranking: bool) -> TextFormat:
    """The format of an entry with the turns of a conversation."""
    ours = {"messages": "conversations", **COMMON}
    needed = ("messages", *(("chosen", "rejected") if ranking else ("kto_tag",)))
    plain = turns_and_pairs if ranking else (lambda turns: labelled_turns(turns, "kto_tag"))
    return renaming(ours, columns, partial(read_tagged, plain("conversations"), tags), needed)


def read_tagged(
    read: Callable[[Record], Example], tags: Mapping[str, str], record: Record
) -> Example:
    """What ``read`` makes of a row whose messages have an entry's field and role names."""
    turns = ("conversations", "chosen", "rejected")
    own = {k: retagged(v, tags) if k in turns else v for k, v in record.items()}
    return read(Record(own, record.pictures))


def renaming(
    ours: Mapping[str, str],
    named: Mapping[str, str],
    read: Callable[[Record], Example],
    needed: tuple[str, ...],
) -> TextFormat:
    """A format whose columns are called as an entry says; other columns are not read."""
    # Functions with their arguments and not closures, which cannot be sent to another process.
    renamed = partial(read_renamed, {ours[key]: column for key, column in named.items()}, read)
    pictures = named.get("images") or named.get("image")
    return TextFormat(tuple(named[key] for key in needed), renamed, pictures=pictures)


def read_renamed(
    columns: Mapping[str, str], read: Callable[[Record], Example], record: Record
) -> Example:
    """What ``read`` makes of a row whose columns are called as ``columns`` says, by our names."""
    own = Record(
        {name: record[column] for name, column in columns.items() if column in record},
        record.pictures,
    )
    own.check_media()
    return read(own)


def retagged(value: Any, tags: Mapping[str, str]) -> Any:
    """Messages with the field and role names of an entry, in {from, value} form."""
    if isinstance(value, list):
        return [retagged(part, tags) for part in value]
    if not isinstance(value, dict) or tags["role_tag"] not in value:
        return value
    roles = {
        tags[key]: SHAREGPT[key] for key in SHAREGPT if not key.startswith(("role", "content"))
    }
    own = {tags["role_tag"], tags["content_tag"]}
    role = value[tags["role_tag"]]
    others = {name: part for name, part in value.items() if name not in own}
    return {"from": roles.get(role, role), "value": value.get(tags["content_tag"]), **others}
