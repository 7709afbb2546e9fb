"""Reads TRL's preference rows: prompt, chosen and rejected as text or messages, with or without a
prompt of their own, a system text or scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffdpo.data.text.messages import (
    BadRow,
    Message,
    Text,
    answer,
    contents,
    squeezed,
    text_or_messages,
)
from diffdpo.data.text.schema import Example, pair, split_common, user_turn, with_system


def explicit(record: Mapping[str, Any]) -> Example:
    """Reads prompt, chosen, rejected; a ``system`` text opens a conversation. Where the sides are
    whole conversations that repeat the prompt, as in UltraFeedback, the prompt is what the
    conversations share.

    Raises BadRow where they do not repeat it.
    """
    prompt, chosen, rejected = (
        text_or_messages(record[name], name) for name in ("prompt", "chosen", "rejected")
    )
    if isinstance(prompt, str) and not isinstance(chosen, str) and not isinstance(rejected, str):
        if [side[0]["role"] for side in (chosen, rejected) if side] == ["assistant"] * 2:
            prompt = user_turn(prompt)
        else:
            said = prompt
            prompt, chosen, rejected = split_common(chosen, rejected)
            if isinstance(prompt, str) or squeezed(said) not in squeezed(contents(prompt)):
                raise BadRow("the prompt is not in what the conversations of both sides share")
    elif not isinstance(prompt, str) and isinstance(chosen, str) and isinstance(rejected, str):
        chosen, rejected = answer(chosen, "chosen"), answer(rejected, "rejected")
    elif isinstance(prompt, list) and isinstance(chosen, list) and isinstance(rejected, list):
        chosen, rejected = behind(prompt, chosen), behind(prompt, rejected)
    return pair(with_system(prompt, record), chosen, rejected, record)


def behind(prompt: list[Message], side: list[Message]) -> list[Message]:
    """What follows the prompt in a side that is a whole conversation; an answer as it is."""
    repeats = bool(prompt) and side[: len(prompt)] == prompt and not is_answer(side)
    return side[len(prompt) :] if repeats else side


def implicit(record: Mapping[str, Any]) -> Example:
    """Reads chosen, rejected: whole texts or conversations; the prompt is what they share.

    Raises BadRow also where they are answers alone.
    """
    sides = [text_or_messages(record[name], name) for name in ("chosen", "rejected")]
    if all(side and is_answer(side) for side in sides):
        raise BadRow("chosen and rejected are answers without a prompt; name it by --prompt_column")
    prompt, chosen, rejected = split_common(*sides)
    return pair(with_system(prompt, record), chosen, rejected, record)


def is_answer(side: Text) -> bool:
    """Whether messages begin with the assistant's."""
    return not isinstance(side, str) and side[0]["role"] == "assistant"


def system_and_pairs(record: Mapping[str, Any]) -> Example:
    """Reads system, prompt, chosen, rejected, all text, as a conversation of one turn."""
    texts = [record[name] for name in ("system", "prompt", "chosen", "rejected")]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise BadRow("system, prompt, chosen and rejected are not all text")
    return one_turn(texts[1] or "", record)


def one_turn(text: str, record: Mapping[str, Any]) -> Example:
    """A user's question and two answers, as a conversation."""
    chosen, rejected = (answer(record[name], name) for name in ("chosen", "rejected"))
    return pair(with_system(user_turn(text), record), chosen, rejected, record)
