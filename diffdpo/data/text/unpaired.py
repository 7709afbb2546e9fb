"""Reads TRL's unpaired rows: a prompt, a completion and a label that says whether the completion
is desirable."""

from __future__ import annotations

from typing import Any

from diffdpo.data.text.schema import Example, label, single, text_or_messages


def unpaired(record: dict[str, Any]) -> Example:
    """Reads prompt, completion, label; text or messages."""
    prompt, completion = (text_or_messages(record[name], name) for name in ("prompt", "completion"))
    # A textual prompt before messages is the user's: the chat template has to see it.
    if isinstance(prompt, str) and not isinstance(completion, str):
        prompt = [{"role": "user", "content": prompt}]
    return single(prompt, completion, label(record["label"]), record)
