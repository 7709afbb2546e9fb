"""Reads LLaMA-Factory's rows: conversations, chosen and rejected in {from, value} form, and
messages with a label (KTO)."""

from __future__ import annotations

from typing import Any

from diffdpo.data.text.schema import BadRow, Example, label, messages, pair, single


def sharegpt(record: dict[str, Any]) -> Example:
    """Reads conversations, chosen, rejected; a ``system`` column, where there is one, opens the
    conversation."""
    opening = [{"role": "system", "content": record["system"]}] if record.get("system") else []
    prompt = opening + messages(record["conversations"])
    return pair(prompt, messages(record["chosen"]), messages(record["rejected"]), record)


def labelled_messages(record: dict[str, Any]) -> Example:
    """Reads messages, label: the last message is the completion that the label judges."""
    conversation = messages(record["messages"])
    if len(conversation) < 2:
        raise BadRow("messages needs a prompt and a completion")
    return single(conversation[:-1], conversation[-1:], label(record["label"]), record)


def tagged_messages(record: dict[str, Any]) -> Example:
    """Reads messages, kto_tag: as ``labelled_messages``, with the label in another column."""
    return labelled_messages({**record, "label": record["kto_tag"]})
