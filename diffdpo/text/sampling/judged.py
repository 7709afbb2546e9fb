"""Texts as rewards judge them: the completions of preference data under their prompts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from datasets import Dataset

from diffdpo.cache.keys import digest
from diffdpo.data.text import detect
from diffdpo.data.text.messages import BadRow, Text
from diffdpo.data.text.record import Record, as_bad_row
from diffdpo.data.text.schema import Example
from diffdpo.errors import UserError, short
from diffdpo.text.reading.rows import first_record
from diffdpo.text.tokens.tally import Tally


@dataclass
class JudgedTexts:
    """The completions of all usable rows, those of a row side by side, with their prompts: text, or
    for rewards that read them conversations."""

    tally: Tally
    rows: list[int] = field(default_factory=list)  # of the data set
    prompts: list[Text] = field(default_factory=list)  # of every row
    sides: int = 2  # completions of a row
    heads: list[Text] = field(default_factory=list)  # of every completion, what stands before it
    tails: list[str] = field(default_factory=list)
    desirable: list[bool] = field(default_factory=list)  # labels of rows of one completion

    def add(self, row: int, example: Example) -> None:
        """Take in a row. Raises BadRow where a completion ends with no text."""
        parts = [split(example.prompt, completion) for completion in example.completions]
        self.sides = len(parts)
        self.rows.append(row)
        self.prompts.append(example.prompt)
        for head, tail in parts:
            self.heads.append(head)
            self.tails.append(tail)
        if example.desirable is not None:
            self.desirable.append(example.desirable)

    @cached_property
    def keys(self) -> list[str]:
        """The prompts of the rows as texts, by which figures are clustered."""
        return [as_text(prompt) for prompt in self.prompts]


@dataclass
class TextItems:
    """The completions as a reward is called with them: with conversations, or with texts alone."""

    texts: JudgedTexts
    chats: bool

    def __len__(self) -> int:
        return len(self.texts.tails)

    @cached_property
    def digest(self) -> str:
        """Of prompts and completions."""
        return digest(*(json.dumps(self.read(number)) for number in range(len(self))))

    def named(self, number: int) -> str:
        """'completion 2 of row 7'."""
        row, side = divmod(number, self.texts.sides)
        return f"completion {side + 1} of row {self.texts.rows[row]}"

    def read(self, number: int) -> tuple[Any, str]:
        """The prompt of a completion, and the completion."""
        head, tail = self.texts.heads[number], self.texts.tails[number]
        if self.chats or isinstance(head, str):
            return head, tail
        return as_text(head) + "\n", tail


def split(prompt: Text, completion: Text) -> tuple[Text, str]:
    """What stands before the last words of a completion, and these. Raises BadRow where they are
    no text."""
    if isinstance(completion, str) and isinstance(prompt, str):
        return prompt, completion
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if isinstance(completion, str):
        return before, completion
    *more, last = completion
    if last["role"] != "assistant" or not isinstance(last["content"], str):
        raise BadRow("a completion does not end with the assistant's words")
    return [*before, *more], last["content"]


def as_text(prompt: Text) -> str:
    """A conversation as the texts of its messages, a line break between them."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message["content"] or "") for message in prompt)


def judged_texts(dataset: Dataset, requested: str | None) -> JudgedTexts:
    """The completions of a data set; ``requested`` is a format of the table.

    Raises UserError where the format is not known, too many rows are bad or the data hold single
    completions as well as pairs.
    """
    name, format = detect(dataset.column_names, first_record(dataset), requested)
    texts = JudgedTexts(Tally(len(dataset), name))
    for row in range(len(dataset)):
        try:
            example = format.read(Record(dataset[row]))
            if texts.rows and len(example.completions) != texts.sides:
                raise UserError(f"data: row {row}: pairs and single completions are mixed")
            texts.add(row, example)
        except UserError:
            raise
        except Exception as error:  # whatever a row's content makes of a reader
            texts.tally.bad.append(f"row {row}: {short(as_bad_row(error))}")
    texts.tally.check(len(texts.rows))
    return texts
