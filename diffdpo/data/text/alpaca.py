"""Reads rows that name the user's words instruction or question: LLaMA-Factory's alpaca form, with
a pair or a label, and orca's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from diffdpo.data.text.messages import BadRow, Message, answer
from diffdpo.data.text.pairs import one_turn
from diffdpo.data.text.schema import Example, label, pair, single, user_turn, with_system


def alpaca_pairs(record: Mapping[str, Any]) -> Example:
    """Reads instruction, chosen, rejected, and input, history and system where they are."""
    chosen, rejected = (answer(record[name], name) for name in ("chosen", "rejected"))
    return pair(conversation(record), chosen, rejected, record)


def alpaca_labels(tag: str) -> Callable[[Mapping[str, Any]], Example]:
    """A reader of instruction, output and ``tag``, and of input, history and system."""
    return partial(read_labels, tag)


def read_labels(tag: str, record: Mapping[str, Any]) -> Example:
    """What ``alpaca_labels`` reads of a row."""
    completion = answer(record["output"], "output")
    return single(conversation(record), completion, label(record[tag]), record)


def question_pairs(column: str) -> Callable[[Mapping[str, Any]], Example]:
    """A reader of ``column``, chosen, rejected, and system where it is: a conversation of one
    turn."""
    return partial(read_question, column)


def read_question(column: str, record: Mapping[str, Any]) -> Example:
    """What ``question_pairs`` reads of a row."""
    return one_turn(words(record, column), record)


def conversation(record: Mapping[str, Any]) -> list[Message]:
    """The turns before the completion: the history, then instruction and input as one message."""
    history = record.get("history") or []
    if not isinstance(history, list) or not all(map(is_exchange, history)):
        raise BadRow("history is not a list of [words, answer], both text")
    turns = [turn for words, reply in history for turn in exchange(words, reply)]
    parts = [words(record, "instruction"), words(record, "input")]
    turns += user_turn("\n".join(part for part in parts if part))
    return list(with_system(turns, record))  # type: ignore[arg-type]


def is_exchange(turn: Any) -> bool:
    """Whether an entry of a history is a text and its answer."""
    return isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn)


def exchange(words: str, reply: str) -> list[Message]:
    """A message of the user and one of the assistant."""
    return [*user_turn(words), {"role": "assistant", "content": reply}]


def words(record: Mapping[str, Any], column: str) -> str:
    """The text of a column, '' where it has none. Raises BadRow for anything but text."""
    text = record.get(column)
    if text is not None and not isinstance(text, str):
        raise BadRow(f"{column} is {type(text).__name__}, not text")
    return text or ""
