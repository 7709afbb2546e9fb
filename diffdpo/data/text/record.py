"""A row as the formats read it: without padding, and with a note of the columns that were read."""

from __future__ import annotations

from typing import Any

from diffdpo.data.text.messages import BadRow, Text, without_nulls
from diffdpo.errors import UserError, short

MEDIA = ("image", "images", "video", "videos", "audio", "audios")
# Texts beside a pair that are no part of a prompt, by the last word of the column's name.
NOTES = {"id", "uid", "uuid", "idx", "index", "hash", "source", "dataset", "split", "subset"}
NOTES |= {"model", "models", "name", "language", "lang", "category", "type", "domain", "topic"}
NOTES |= {"rating", "score", "license", "url", "date", "timestamp", "tags", "annotator"}


class Record(dict[str, Any]):
    """A row whose nested nulls are gone; ``seen`` are the columns that were read.

    ``pictures``: whether pictures beside the text are read, by an image–text model.
    """

    def __init__(self, row: dict[str, Any], pictures: bool = False) -> None:
        # Of the columns themselves only the content: a column that is there may be asked for.
        super().__init__({name: without_nulls(value) for name, value in row.items()})
        self.seen: set[str] = set()
        self.pictures = pictures

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a column, where there is one."""
        self.seen.add(name)
        return super().get(name, default)

    def check_media(self) -> None:
        """Raises UserError where the row holds pictures, video or sound that are not read."""
        unread = MEDIA[2:] if self.pictures else MEDIA
        if given := [name for name in unread if dict.get(self, name)]:
            reads = "which are not read here"
            if given[0].startswith("image"):
                reads = "which image–text models alone read"
            raise UserError(
                f"data: column {given[0]} holds {given[0].rstrip('s')}s, {reads}; take rows"
                " without, or drop the column"
            )

    def check_prompt(self, prompt: Text, name: str) -> None:
        """Raises UserError where other columns hold text that is not in the prompt of the format
        ``name``, which has none of its own or a single text."""
        said = prompt if isinstance(prompt, str) else "\n".join(str(m["content"]) for m in prompt)
        others = [
            column
            for column, value in self.items()
            if column not in self.seen
            and is_words(column, value)
            and not (isinstance(value, str) and value.strip() in said)
        ]
        if others:
            raise UserError(
                f"data: columns {short(', '.join(others))} hold text that would not be read; name"
                f" the prompt's with --prompt_column, or take --data_format {name!r} to leave them"
                " out"
            )


def is_note(name: str) -> bool:
    """Whether a column is, by its name, no part of a prompt."""
    return name.lower().replace("-", "_").split("_")[-1] in NOTES


def is_words(name: str, value: Any) -> bool:
    """Whether a column holds text or messages that may belong to a prompt."""
    if is_note(name):
        return False
    messages = isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)
    return messages or (isinstance(value, str) and bool(value.strip()))


def as_bad_row(error: Exception) -> BadRow:
    """Any error of reading a row, as the reason why it cannot be used."""
    if isinstance(error, BadRow):
        return error
    return BadRow(f"{type(error).__name__}: {short(error)}")
