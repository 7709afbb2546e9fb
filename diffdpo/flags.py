"""Command-line flags from the fields of a settings class. All mistakes are collected."""

from __future__ import annotations

import dataclasses
import math
import operator
import re
from argparse import SUPPRESS, ArgumentParser, Namespace
from argparse import RawDescriptionHelpFormatter as PlainFormatter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypedDict, get_origin, get_type_hints

from diffdpo.errors import UserError, nearest, short
from diffdpo.words import in_place, inner, is_off, reader


class Bounds(TypedDict, total=False):
    """The bounds of a number, as ``flag`` takes them."""

    least: float
    most: float


# The headings of --help by group, in this order.
GROUPS = {name: name for name in ("options", "data", "model", "training", "loss", "optimizer")}
GROUPS |= {"flow": "flow models", "caching": "caching", "logging": "checkpoints and logging"}
GROUPS |= {"evaluation": "evaluation and sampling", "rewards": "rewards"}
# What a bound asks of a number, and how a line says it.
BOUNDS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "least": (operator.ge, "at least"),
    "above": (operator.gt, "above"),
    "below": (operator.lt, "below"),
    "most": (operator.le, "at most"),
}
# Random numbers have keys of 64 bits; other seeds would share theirs with one of these.
SEEDS: Bounds = {"least": -(2**63), "most": 2**64 - 1}
FLAG = re.compile(r"--[\w-]+(=|$)")


def flag(
    default: Any,
    help: str,
    aliases: list[str] | None = None,
    changes: str | None = None,
    group: str | None = None,
    choices: Sequence[str] | None = None,
    read: Callable[[str], Any] | None = None,
    positional: bool = False,
    **bounds: float,
) -> Any:
    """A settings field that is also a command-line flag.

    ``aliases`` are its names in other programs. ``changes`` names the stored numbers that depend on
    it, see ``cache/keys.py``. ``group`` is its heading in --help, ``choices`` are the words it
    takes, and ``read`` converts a word to a value where the type alone is not enough. A
    ``positional`` one may be given without the flag; a list takes all such words. ``bounds`` are
    those of a number: ``least``, ``above``, ``below`` and ``most``. A number is finite unless
    ``most`` is infinite.
    """
    assert group is None or group in GROUPS, f"--help has no heading for {group}"
    assert set(bounds) <= set(BOUNDS), f"bounds are {', '.join(BOUNDS)}"
    notes: dict[str, Any] = {
        "aliases": aliases,
        "changes": changes,
        "group": group,
        "choices": choices,
        "bounds": bounds or None,
        "positional": positional or None,
    }
    notes["type"] = read
    metadata = {"help": help, **{name: note for name, note in notes.items() if note is not None}}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def restated(cls: Any, name: str, default: Any = dataclasses.MISSING, **notes: Any) -> Any:
    """The flag ``name`` of the settings class ``cls`` with what is given, and all else as there.

    That is its default, and ``help``, ``aliases``, ``choices`` or ``type``, which is what ``flag``
    calls ``read``; one that is None is taken away.
    """
    field = cls.__dataclass_fields__[name]
    kept = field.default if default is dataclasses.MISSING else default
    metadata = {n: note for n, note in {**field.metadata, **notes}.items() if note is not None}
    return dataclasses.field(default=kept, metadata=metadata)


def default_of(cls: Any, name: str) -> Any:
    """The value that a setting of the class ``cls`` has where nothing sets it."""
    field = cls.__dataclass_fields__[name]
    if field.default_factory is not dataclasses.MISSING:  # of a list, made anew each time
        return field.default_factory()
    return field.default


def one_of(name: str, value: Any, choices: Iterable[Any]) -> list[str]:
    """A line that names the choices and the nearest one; none where ``value`` is among them."""
    if value in choices:
        return []
    names = [str(choice) for choice in choices if choice is not None]
    hint = nearest(str(value), names)
    return [f"--{name} {short(repr(value))} is unknown; known: {', '.join(names)}{hint}"]


def out_of_bounds(name: str, value: Any, bounds: Mapping[str, float]) -> list[str]:
    """A line where ``value``, a number or a list of them, is not finite or outside its bounds."""
    numbers = value if isinstance(value, list) else [value]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        endless = isinstance(number, float) and not math.isfinite(number)
        if endless and bounds.get("most") != math.inf:
            return [f"--{name} must be a finite number, got {number}"]
        for bound, limit in bounds.items():
            holds, wanted = BOUNDS[bound]
            if not holds(number, limit):
                return [f"--{name} must be {wanted} {limit}, got {short(number, 24)}"]
    return []


def unfit_text(name: str, value: Any) -> list[str]:
    """A line where a text, or one of a list of texts, cannot be a name on disk or be written."""
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            continue
        if "\0" in text:
            return [f"--{name} holds a null byte"]
        try:
            text.encode()
        except UnicodeEncodeError:
            return [f"--{name} {short(ascii(text))} is not UTF-8 text"]
    if value == "" or (isinstance(value, list) and "" in value):
        return [f"--{name} is empty; give a value or leave it out"]
    return []


class StrictParser(ArgumentParser):
    """One flag for every field of a settings class, hyphens or underscores; no abbreviations."""

    def __init__(self, cls: Any, prog: str | None = None, about: str | None = None) -> None:
        super().__init__(
            prog=prog,
            usage="%(prog)s [--config FILE] [flags]",
            description=about,
            allow_abbrev=False,
            add_help=False,
            argument_default=SUPPRESS,  # so that ``read`` returns what was given and nothing else
            formatter_class=wide,
        )
        hints = get_type_hints(cls)
        named = [f.name for f in dataclasses.fields(cls) if "positional" in f.metadata]
        self.positional = {name: get_origin(hints[name]) is list for name in named}
        self.spellings: list[str] = []
        self.repeated: list[str] = []
        self.refused: dict[str, str] = cls.refused()
        for name, title in GROUPS.items():
            group = self.add_argument_group(title)
            for field in dataclasses.fields(cls):
                if field.metadata.get("group", "options") == name:
                    self.add_field(group, field, hints[field.name])
        for name in (*cls.inert(), *sorted(cls.foreign())):
            self.add_flag(self, name, nargs="*", help=SUPPRESS)
        for name in cls.inert():  # a switch of another program that is on by default there
            self.add_flag(self, f"no_{name}", action="store_true", dest=name, help=SUPPRESS)
        group = self.add_argument_group("general")
        self.add_flag(
            group,
            "config",
            metavar="FILE",
            type=in_place,
            help="YAML file of settings; flags override it",
        )
        group.add_argument("-h", "--help", action="help", help="show this and leave")

    def add_field(self, group: Any, field: dataclasses.Field[Any], hint: Any) -> None:
        """Add the flag of a field. A switch also gets a ``--no_`` form."""
        aliases = field.metadata.get("aliases", [])
        own = {key: field.metadata[key] for key in ("type", "action") if key in field.metadata}
        options = {**reader(hint), **own, "help": help_text(field)}
        self.add_flag(group, field.name, *aliases, **options)
        if inner(hint) is bool:
            off = {"action": "store_false", "dest": field.name, "help": SUPPRESS}
            self.add_flag(group, f"no_{field.name}", **off)

    def add_flag(self, group: Any, name: str, *aliases: str, **options: Any) -> None:
        """Add a flag under all its spellings; --help and error lines show the first of them."""
        names = [f"--{name}", *aliases]
        hyphenated = [f"--{spelling[2:].replace('_', '-')}" for spelling in names]
        action = group.add_argument(*dict.fromkeys(names + hyphenated), **{"dest": name, **options})
        # The parser looks flags up elsewhere: this list is only what it shows.
        action.option_strings = names[:1]
        self.spellings += names

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))

    def read(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """The values that are given, by name, and a line for every mistake.

        The last of several values holds; ``repeated`` names the flags that were given again.
        """
        # One flag at a time: argparse stops at its first error, and all are to be told at once.
        given, mistakes = Namespace(), []
        for chunk in by_flag(words):
            try:
                mistakes += self.read_one(chunk, given)
            except UserError as error:
                mistakes += error.mistakes
        return vars(given), mistakes

    def read_one(self, chunk: list[str], given: Namespace) -> list[str]:
        """Read one flag with its values into ``given``; returns a line for each mistake."""
        name, *joined = chunk[0].split("=", 1)
        action = self._option_string_actions.get(name)
        if action is None and FLAG.match(name):
            if (known := name[2:].replace("-", "_")) in self.refused:
                words = joined + chunk[1:]
                is_asked = not words or not all(map(is_off, words))
                return [f"{name}: {self.refused[known]}"] if is_asked else []
            hint = nearest(f"--{known}", self.spellings)
            return [f"unknown flag {short(name)}{hint}"]
        if action is not None and action.nargs != 0 and len(chunk) == 2 and chunk[0] == name:
            chunk = [f"{name}={chunk[1]}"]  # so that a value may begin with a minus
        if action is not None and action.dest in vars(given):
            self.repeated.append(action.dest)
        _, stray = self.parse_known_args(chunk, given)
        for dest, many in self.positional.items():
            if many and stray:
                setattr(given, dest, [*vars(given).get(dest, []), *stray])
                stray = []
            elif stray and dest not in vars(given):
                setattr(given, dest, stray.pop(0))
        return [f"stray word {short(repr(word))}" for word in stray]


def by_flag(words: Sequence[str]) -> list[list[str]]:
    """The words in chunks: each flag with its values, and first the words before any flag."""
    chunks: list[list[str]] = []
    for word in words:
        if FLAG.match(word) or word == "-h" or not chunks:
            chunks.append([word])
        else:
            chunks[-1].append(word)
    return chunks


def help_text(field: dataclasses.Field[Any]) -> str:
    """The purpose of a field, its names in other programs and its default."""
    text, metadata = field.metadata["help"], field.metadata
    if "aliases" in metadata:
        text += f"; also {', '.join(metadata['aliases'])}"
    if field.default is True:
        text += f"; --no_{field.name} turns it off"
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = " ".join(map(str, field.default_factory()))
    if default not in (None, ""):
        text += f" (default: {str(default).lower() if isinstance(default, bool) else default})"
    return text.replace("%", "%%")


def wide(prog: str) -> PlainFormatter:
    """A --help of 99 characters a line; the text at its top keeps its own line breaks."""
    return PlainFormatter(prog, max_help_position=34, width=99)
