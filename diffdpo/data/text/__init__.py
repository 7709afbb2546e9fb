"""ADD A TEXT FORMAT HERE: a function from a row to an ``Example`` in a file of its own, and one
line in the table."""

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
    """A format is known by its columns, and where two share them by what the first row holds."""

    columns: tuple[str, ...]
    read: Callable[[dict[str, Any]], Example]
    holds: Callable[[dict[str, Any]], bool] = lambda record: True


def is_text(record: dict[str, Any]) -> bool:
    """Whether the prompt is plain text."""
    return isinstance(record["prompt"], str)


# The first row that fits is taken: those with more columns come first.
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


def as_format(own: object) -> TextFormat:
    """A row of the table from a user's own. Raises TypeError where it is none."""
    if not isinstance(own, TextFormat):
        raise TypeError("is no diffdpo.data.text.TextFormat")
    return own


def detect(
    columns: list[str], first: dict[str, Any], requested: str | None = None
) -> tuple[str, TextFormat]:
    """The name and the row of the format: the ``requested`` one, or the first that fits.

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
