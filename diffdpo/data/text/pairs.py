"""Reads TRL's preference rows: prompt, chosen and rejected as text or messages, with or without a
prompt of their own, a system text or scores."""

from __future__ import annotations

from typing import Any

from diffdpo.data.text.schema import BadRow, Example, Message, pair, split_common, text_or_messages


def explicit(record: dict[str, Any]) -> Example:
    """Reads prompt, chosen, rejected. Where the sides are whole conversations that repeat a textual
    prompt, as in UltraFeedback, the prompt is what the conversations share."""
    prompt, chosen, rejected = (
        text_or_messages(record[name], name) for name in ("prompt", "chosen", "rejected")
    )
    if isinstance(prompt, str) and not isinstance(chosen, str) and not isinstance(rejected, str):
        if [side[0]["role"] for side in (chosen, rejected) if side] == ["assistant"] * 2:
            prompt = [{"role": "user", "content": prompt}]
        else:
            prompt, chosen, rejected = split_common(chosen, rejected)
    return pair(prompt, chosen, rejected, record)


def implicit(record: dict[str, Any]) -> Example:
    """Reads chosen, rejected: whole texts or conversations; the prompt is what they share."""
    sides = [text_or_messages(record[name], name) for name in ("chosen", "rejected")]
    return pair(*split_common(*sides), record)


def with_system(record: dict[str, Any]) -> Example:
    """Reads system, prompt, chosen, rejected, all text, as a conversation of one turn."""
    texts = [record[name] or "" for name in ("system", "prompt", "chosen", "rejected")]
    if not all(isinstance(text, str) for text in texts):
        raise BadRow("system, prompt, chosen and rejected are not all text")
    system, user, chosen, rejected = texts
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    prompt = [*start, {"role": "user", "content": user}]
    better, worse = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    return pair(prompt, better, worse, record)
