"""ADD A TEXT FORMAT HERE: write a function from a row to an ``Example`` in a file of its own, and
add one line to the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diffdpo.data.source import check_columns
from diffdpo.data.text.llama_factory import labelled_messages, sharegpt, tagged_messages
from diffdpo.data.text.pairs import explicit, implicit, with_system
from diffdpo.data.text.schema import Example
from diffdpo.data.text.transcripts import is_transcript, transcripts
from diffdpo.data.text.unpaired import unpaired
from diffdpo.errors import UserError
from diffdpo.extensions import named_row


@dataclass(frozen=True)
class TextFormat:
    """A row of the table: how a format is told from others, and how its rows are read."""

    columns: tuple[str, ...]  # that the data must have
    read: Callable[[dict[str, Any]], Example]
    # Asked of the first row, where two formats have the same columns.
    holds: Callable[[dict[str, Any]], bool] = lambda record: True


def is_text(record: dict[str, Any]) -> bool:
    """Whether the prompt is plain text."""
    return isinstance(record["prompt"], str)


# The first that fits is taken, so a format comes before those that need fewer of its columns.
TEXT_FORMATS = {
    "llama-factory pairs": TextFormat(("conversations", "chosen", "rejected"), sharegpt),
    "llama-factory labels": TextFormat(("messages", "label"), labelled_messages),
    "llama-factory tags": TextFormat(("messages", "kto_tag"), tagged_messages),
    "system and pairs": TextFormat(
        ("system", "prompt", "chosen", "rejected"), with_system, is_text
    ),
    "pairs": TextFormat(("prompt", "chosen", "rejected"), explicit),
    "labels": TextFormat(("prompt", "completion", "label"), unpaired),
    "transcripts": TextFormat(("chosen", "rejected"), transcripts, is_transcript),
    "pairs without prompt": TextFormat(("chosen", "rejected"), implicit),
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
    for name, row in TEXT_FORMATS.items():
        if set(row.columns) <= set(columns) and row.holds(first):
            return name, row
    needs = "; ".join(f"{name}: {', '.join(row.columns)}" for name, row in TEXT_FORMATS.items())
    raise UserError(f"no preferences in columns {', '.join(columns)}; needed are {needs}")
