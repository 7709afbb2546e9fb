"""ADD A TEXT FORMAT HERE: write a function from a row to an ``Example`` in a file of its own, and
add one line to the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffdpo.data.columns import closest, listed
from diffdpo.data.source import check_columns
from diffdpo.data.text.alpaca import alpaca_labels, alpaca_pairs, question_pairs
from diffdpo.data.text.llama_factory import (
    are_answers,
    labelled_turns,
    turns_and_pairs,
    whole_pairs,
)
from diffdpo.data.text.pairs import explicit, implicit, system_and_pairs
from diffdpo.data.text.record import Record
from diffdpo.data.text.schema import Example
from diffdpo.data.text.transcripts import is_transcript, transcripts
from diffdpo.data.text.unpaired import unpaired
from diffdpo.errors import UserError
from diffdpo.extensions import named_row


def any_row(record: Record) -> bool:
    """True: no other format has the same columns."""
    return True


@dataclass(frozen=True)
class TextFormat:
    """A row of the table: how a format is told from others, and how its rows are read."""

    columns: tuple[str, ...]  # that the data must have
    read: Callable[[Record], Example]
    # Asked of the first row, where two formats have the same columns.
    holds: Callable[[Record], bool] = any_row
    # Its prompt is a guess, so that no other column may hold text that belongs to it.
    guess: bool = False
    pictures: str | None = None  # the column that holds them; None: "images" or "image"


def is_text(record: Record) -> bool:
    """Whether the prompt is plain text."""
    return isinstance(record["prompt"], str)


def are_conversations(record: Record) -> bool:
    """Whether both sides are messages."""
    return not any(isinstance(record[name], str) for name in SIDES)


SIDES = ("chosen", "rejected")
# The first that fits is taken, so a format comes before those that need fewer of its columns.
TEXT_FORMATS = {
    "llama-factory pairs": TextFormat(
        ("conversations", *SIDES), turns_and_pairs("conversations"), are_answers
    ),
    "llama-factory labels": TextFormat(("messages", "label"), labelled_turns("messages", "label")),
    "llama-factory tags": TextFormat(
        ("messages", "kto_tag"), labelled_turns("messages", "kto_tag")
    ),
    "sharegpt labels": TextFormat(
        ("conversations", "label"), labelled_turns("conversations", "label")
    ),
    "sharegpt tags": TextFormat(
        ("conversations", "kto_tag"), labelled_turns("conversations", "kto_tag")
    ),
    "alpaca labels": TextFormat(("instruction", "output", "label"), alpaca_labels("label")),
    "alpaca tags": TextFormat(("instruction", "output", "kto_tag"), alpaca_labels("kto_tag")),
    "system and pairs": TextFormat(("system", "prompt", *SIDES), system_and_pairs, is_text),
    "pairs": TextFormat(("prompt", *SIDES), explicit),
    "labels": TextFormat(("prompt", "completion", "label"), unpaired),
    "messages and pairs": TextFormat(
        ("messages", *SIDES), turns_and_pairs("messages"), are_answers
    ),
    "alpaca pairs": TextFormat(("instruction", *SIDES), alpaca_pairs, are_answers),
    "questions": TextFormat(("question", *SIDES), question_pairs("question"), are_answers, True),
    "queries": TextFormat(("query", *SIDES), question_pairs("query"), are_answers, True),
    "whole conversations": TextFormat(("chosen_messages", "rejected_messages"), whole_pairs),
    "transcripts": TextFormat(SIDES, transcripts, is_transcript, True),
    "pairs of conversations": TextFormat(SIDES, implicit, are_conversations),
    "pairs without prompt": TextFormat(SIDES, implicit, guess=True),
}


def as_format(value: object) -> TextFormat:
    """``value``, which a user's file defines, as a row of the table. Raises TypeError where it is
    no TextFormat."""
    if not isinstance(value, TextFormat):
        raise TypeError("is no diffdpo.data.text.TextFormat")
    return value


def detect(
    columns: list[str], first: dict[str, Any], requested: str | None = None
) -> tuple[str, TextFormat]:
    """The format's name and its row of the table: the ``requested`` one, or the first that fits.

    Raises UserError naming the columns there are and those each format needs.
    """
    if requested:
        row = named_row(requested, TEXT_FORMATS, "data_format", as_format)
        check_columns(requested, row.columns, columns)
        return requested, row
    record = Record(first)
    for name, row in TEXT_FORMATS.items():
        if set(row.columns) <= set(columns) and row.holds(record):
            return name, row
    needed = {name: row.columns for name, row in TEXT_FORMATS.items()}
    raise UserError(
        f"no preferences in columns {listed(columns)}; {closest(columns, needed)}; other names are"
        " told by --prompt_column, --chosen_column, --rejected_column, --label_column"
    )
