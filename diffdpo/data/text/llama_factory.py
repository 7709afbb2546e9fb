"""Reads conversations in LLaMA-Factory's forms: turns before a pair of answers, a conversation with
a label (KTO), and two whole conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from diffdpo.data.text.messages import BadRow, answer, messages
from diffdpo.data.text.schema import Example, label, pair, single, split_common, with_system

Reader = Callable[[Mapping[str, Any]], Example]


def are_answers(record: Mapping[str, Any]) -> bool:
    """Whether the sides are answers, not whole conversations that begin with the user."""
    try:
        sides = [answer(record[name], name) for name in ("chosen", "rejected")]
    except BadRow:
        return True  # the reader names the mistake
    return all(side[0]["role"] == "assistant" for side in sides if side)


def turns_and_pairs(turns: str) -> Reader:
    """A reader of ``turns``, chosen, rejected; a ``system`` column, where there is one, opens the
    conversation."""
    return partial(read_pairs, turns)


def read_pairs(turns: str, record: Mapping[str, Any]) -> Example:
    """What ``turns_and_pairs`` reads of a row."""
    prompt = with_system(messages(record[turns]), record)
    chosen, rejected = (answer(record[name], name) for name in ("chosen", "rejected"))
    return pair(prompt, chosen, rejected, record)


def labelled_turns(turns: str, tag: str) -> Reader:
    """A reader of ``turns`` and ``tag``: the last message is the completion that the label
    judges."""
    return partial(read_labelled, turns, tag)


def read_labelled(turns: str, tag: str, record: Mapping[str, Any]) -> Example:
    """What ``labelled_turns`` reads of a row."""
    conversation = messages(record[turns])
    if len(conversation) < 2:
        raise BadRow(f"{turns} needs a prompt and a completion")
    prompt = with_system(conversation[:-1], record)
    return single(prompt, conversation[-1:], label(record[tag]), record)


def whole_pairs(record: Mapping[str, Any]) -> Example:
    """Reads chosen_messages, rejected_messages: whole conversations, as LLaMA-Factory 1 writes
    them."""
    sides = [messages(record[name]) for name in ("chosen_messages", "rejected_messages")]
    prompt, chosen, rejected = split_common(*sides)
    return pair(with_system(prompt, record), chosen, rejected, record)
