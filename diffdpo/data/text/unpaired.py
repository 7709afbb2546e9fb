"""Reads TRL's unpaired rows: a prompt, a completion and a label that says whether the completion
is desirable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffdpo.data.text.messages import answer, text_or_messages
from diffdpo.data.text.schema import Example, label, single, user_turn, with_system


def unpaired(record: Mapping[str, Any]) -> Example:
    """Reads prompt, completion, label; text or messages. A ``system`` column makes a conversation
    of them."""
    prompt, completion = (text_or_messages(record[name], name) for name in ("prompt", "completion"))
    # A textual prompt before messages is the user's: the chat template has to see it.
    if isinstance(prompt, str) and ("system" in record or not isinstance(completion, str)):
        prompt = user_turn(prompt)
    if not isinstance(prompt, str):
        completion = answer(completion, "completion")
    return single(with_system(prompt, record), completion, label(record["label"]), record)
