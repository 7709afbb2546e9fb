"""What a word on the command line means as a value of a type."""

from __future__ import annotations

import json
import math
import os
import re
from argparse import ArgumentTypeError
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml

from diffdpo.errors import short

METAVARS: dict[type, str] = {int: "N", float: "X", bool: "true|false"}
NONE = ("none", "null")
VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{(\w+)\})")  # of the environment
ROOT = re.compile(rf"{VARIABLE.pattern}(/|$)")
TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


def reader(hint: Any) -> dict[str, Any]:
    """argparse's options for a value of the type ``hint``."""
    kind = inner(hint)
    if kind is bool:
        return {"type": truth, "nargs": "?", "const": True, "metavar": METAVARS[bool]}
    if get_origin(kind) is dict:
        return {"type": mapping, "metavar": "JSON"}
    many = get_origin(kind) is list
    element = get_args(kind)[0] if many else kind
    if get_origin(element) is dict:
        return {"type": mapping, "metavar": "JSON", "nargs": "+"}
    options = {"type": element, "metavar": METAVARS.get(element, "WORD")}
    if element is str:
        options["type"] = in_place
    if element is str and optional(hint):
        options["type"] = lambda word: in_place(word) or None  # an empty word takes a setting back
    if element in (int, float):
        options["type"] = partial(number, kind=element, may_be_none=optional(hint) and not many)
    return options | ({"nargs": "+"} if many else {})


def in_place(word: str) -> str:
    """A word in which ~ is the home folder, and $NAME a variable of the environment where it is a
    path: what shells write, but for quotes and YAML, which they do not see; or folders of these
    names would be made.

    Raises ArgumentTypeError for a variable that is not set.
    """
    # Text may have a dollar in it; a path begins with a whole part, or has a slash and no blanks.
    if ROOT.match(word) or ("/" in word and not re.search(r"\s", word)):
        word = VARIABLE.sub(value_of, word)
    return str(Path(word).expanduser()) if word == "~" or word.startswith("~/") else word


def value_of(found: re.Match[str]) -> str:
    """The value of a variable of the environment. Raises ArgumentTypeError where it has none."""
    if not (value := os.environ.get(found[1] or found[2])):
        raise ArgumentTypeError(f"{short(found.string)}: {found[0]} is not set; write the path")
    return value


def mapping(word: str) -> dict[str, Any]:
    """The object that JSON says. Raises ArgumentTypeError for any other word."""
    try:
        value = json.loads(word)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ArgumentTypeError(f"{short(repr(word))} is no JSON object of names and values")
    return value


def number(word: str, kind: type, may_be_none: bool) -> float | None:
    """The number that a word says; None for "none" or "null" where the setting may be left out.

    Raises ArgumentTypeError for any other word.
    """
    if may_be_none and word.lower() in NONE:
        return None
    try:
        return kind(word)
    except ValueError:
        raise ArgumentTypeError(f"invalid {kind.__name__} value: {short(repr(word))}") from None


def inner(hint: Any) -> Any:
    """``X`` of ``X | None``, and any other type as it is."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    (kind,) = [argument for argument in get_args(hint) if argument is not NoneType]
    return kind


def optional(hint: Any) -> bool:
    """Whether the type ``hint`` allows None."""
    return get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)


def truth(word: str) -> bool:
    """The value of a switch.

    Raises ArgumentTypeError for a word that means neither: ``bool("false")`` would be True.
    """
    if word.lower() not in TRUE + FALSE:
        raise ArgumentTypeError(f"{short(repr(word))} is neither true nor false")
    return word.lower() in TRUE


def misfit(value: Any, hint: Any, is_choice: bool) -> str:
    """The reason why a YAML value does not fit the type ``hint``; '' where it may be read."""
    kind = inner(hint)
    many = get_origin(kind) is list
    if value is None:
        return "" if optional(hint) else "has no value; give one or leave the line out"
    if get_origin(kind) is dict:
        return "" if isinstance(value, dict) else "is one value; names with values are wanted"
    if many and get_origin(get_args(kind)[0]) is dict:
        nested = isinstance(value, list) and all(isinstance(item, dict) for item in value)
        return "" if nested else "is not a list of entries, each with names and values"
    if isinstance(value, dict) or (isinstance(value, list) and not many):
        return f"is {'nested' if isinstance(value, dict) else 'a list'}; one value is wanted"
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, (dict, list)) or item is None for item in items):
        return "is a list of something other than plain values"
    texts = kind is str or (many and kind.__args__[0] is str)
    # YAML 1.1 reads no, off and yes as booleans; a word is meant where words are listed.
    if texts and not is_choice and any(isinstance(item, bool) for item in items):
        return f"is the boolean {str(items[0]).lower()} in YAML; put the word in quotes"
    return ""


def is_off(value: Any) -> bool:
    """Whether a value of another program's setting asks for nothing."""
    word = str(value).lower()
    return not value or word in (*NONE, *FALSE) or is_zero(word)


def is_zero(word: str) -> bool:
    """Whether a word is the number 0, however it is written."""
    try:
        return float(word) == 0
    except ValueError:
        return False


def as_word(value: Any) -> str:
    """A YAML value, plain or nested, as a word on the command line."""
    if isinstance(value, dict):
        return json.dumps(value, default=str)
    if isinstance(value, WrittenInt | WrittenFloat):
        return value.written
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


class WrittenInt(int):
    """A whole number of a YAML file, and its text there."""

    written: str


class WrittenFloat(float):
    """A number of a YAML file, and its text there."""

    written: str


class SettingsLoader(yaml.SafeLoader):
    """Plain YAML in which a name stands once: of two values one would be ignored. A number knows
    how it was written: YAML 1.1 takes 010 for 8 and 1:30 for 90, and of a name 1.10 leaves 1.1."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{short(key.value)} stands here twice", key.start_mark
                )
            names |= {key.value} if isinstance(key, yaml.ScalarNode) else set()
        return super().construct_mapping(node, deep)

    def construct_int(self, node: yaml.ScalarNode) -> WrittenInt:
        """A whole number with its text."""
        number = WrittenInt(self.construct_yaml_int(node))
        number.written = node.value
        return number

    def construct_float(self, node: yaml.ScalarNode) -> WrittenFloat:
        """A number with its text; .inf and .nan have no point elsewhere."""
        number = WrittenFloat(self.construct_yaml_float(node))
        number.written = node.value if math.isfinite(number) else str(float(number))
        return number


SettingsLoader.add_constructor("tag:yaml.org,2002:int", SettingsLoader.construct_int)
SettingsLoader.add_constructor("tag:yaml.org,2002:float", SettingsLoader.construct_float)
