"""ADD AN INSTRUCTION HERE: a function of the text, and one row in the table below.

Instructions that a rule can verify (IFEval: Zhou et al. 2023, arXiv 2311.07911), of those that hold
in any language. A prompt has some of them in its column ``instructions``, a list of objects such as
``{"name": "words", "least": 50}``. All checks are strict: the text as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffdpo.errors import short

BULLET = re.compile(r"^\s*[*•-]\s+\S", re.MULTILINE)
FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)
BLANK = re.compile(r"\n\s*\n")


def between(count: int, least: int = 0, most: int | None = None) -> bool:
    """Whether a count is in the bounds, which belong to them."""
    return count >= least and (most is None or count <= most)


def words(text: str, **bounds: int) -> bool:
    """So many words, which white space parts."""
    return between(len(text.split()), **bounds)


def characters(text: str, **bounds: int) -> bool:
    """So many characters, but for white space at both ends."""
    return between(len(text.strip()), **bounds)


def paragraphs(text: str, **bounds: int) -> bool:
    """So many paragraphs, which blank lines part."""
    return between(len(BLANK.split(text.strip())), **bounds)


def bullets(text: str, **bounds: int) -> bool:
    """So many lines that begin with *, - or •."""
    return between(len(BULLET.findall(text)), **bounds)


def only_json(text: str) -> bool:
    """JSON and nothing else, perhaps between the marks of a code block."""
    fenced = FENCED.fullmatch(text.strip())
    try:
        json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return True


def holds(text: str, word: str) -> bool:
    """Whether a word, or several in a row, stand in the text as such, capitals or not."""
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
    return found is not None


def keywords(text: str, words: list[str]) -> bool:
    """Each of the words is there."""
    return all(holds(text, word) for word in words)


def forbidden(text: str, words: list[str]) -> bool:
    """None of the words is there."""
    return not any(holds(text, word) for word in words)


def starts_with(words: str, text: str) -> bool:
    """The text begins with these, capitals or not."""
    return words.strip().casefold().startswith(text.strip().casefold())


def ends_with(words: str, text: str) -> bool:
    """The text ends with these, capitals or not; quotation marks around all of it do not count."""
    return words.strip().strip('"').casefold().endswith(text.strip().casefold())


def quoted(text: str) -> bool:
    """All of it stands between double quotation marks."""
    inner = text.strip()
    return len(inner) > 1 and inner[0] == inner[-1] == '"'


def no_comma(text: str) -> bool:
    """Without any comma, whatever the script."""
    return not re.search("[,،、，]", text)


def lowercase(text: str) -> bool:
    """Without capitals."""
    return text == text.lower()


def uppercase(text: str) -> bool:
    """In capitals alone."""
    return text == text.upper()


COUNTS, WORDS, TEXT, NOTHING = ("least", "most"), ("words",), ("text",), ()
Row = tuple[Callable[..., bool], tuple[str, ...]]  # the check, and what it may be told
INSTRUCTIONS: dict[str, Row] = {
    "words": (words, COUNTS),
    "characters": (characters, COUNTS),
    "paragraphs": (paragraphs, COUNTS),
    "bullets": (bullets, COUNTS),
    "json": (only_json, NOTHING),
    "keywords": (keywords, WORDS),
    "forbidden": (forbidden, WORDS),
    "starts_with": (starts_with, TEXT),
    "ends_with": (ends_with, TEXT),
    "quoted": (quoted, NOTHING),
    "no_comma": (no_comma, NOTHING),
    "lowercase": (lowercase, NOTHING),
    "uppercase": (uppercase, NOTHING),
}


@dataclass(frozen=True)
class Instruction:
    """One instruction of a prompt."""

    name: str
    told: Mapping[str, Any]

    def followed(self, text: str) -> bool:
        """Whether a text follows it; an empty one follows none, as in IFEval."""
        return bool(text.strip()) and INSTRUCTIONS[self.name][0](text, **self.told)


def read_instructions(cell: Any) -> list[Instruction]:
    """The instructions of one prompt, from a list of objects, as it is or as JSON.

    Raises ValueError, with what is wrong, for any other content.
    """
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise ValueError("is text that is not JSON") from error
    if not isinstance(cell, list) or not all(isinstance(one, dict) for one in cell):
        raise ValueError('must be a list such as [{"name": "words", "least": 50}]')
    return [read_one(one) for one in cell]


def read_one(row: Mapping[str, Any]) -> Instruction:
    """One instruction. Raises ValueError where it is not of the table, or told something else than
    its row says."""
    # A table has all columns in all rows; those of other instructions are null.
    told = {str(key): value for key, value in row.items() if value is not None}
    name = told.pop("name", None)
    if not isinstance(name, str) or name not in INSTRUCTIONS:
        known = ", ".join(INSTRUCTIONS)
        raise ValueError(f"{short(name)!r} is no instruction; known: {known}")
    allowed = INSTRUCTIONS[name][1]
    if odd := [key for key in told if key not in allowed]:
        raise ValueError(f"{name}: {short(odd[0])} means nothing to it")
    if allowed and not told:
        raise ValueError(f"{name}: needs {' or '.join(allowed)}")
    for key, value in told.items():
        if not VALUES[key][0](value):
            raise ValueError(f"{name}: {key} must be {VALUES[key][1]}, not {short(value)!r}")
    return Instruction(name, told)


def is_count(value: Any) -> bool:
    """Whether a value is a number of things."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_word(value: Any) -> bool:
    """Whether a value is text, and not blank."""
    return isinstance(value, str) and bool(value.strip())


VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "least": (is_count, "a whole number from 0 on"),
    "most": (is_count, "a whole number from 0 on"),
    "text": (is_word, "text"),
    "words": (lambda value: isinstance(value, list) and bool(value) and all(map(is_word, value)),
              "a list of words"),
}  # fmt: skip
