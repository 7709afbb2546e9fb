"""The one schema that every text format is read into, and the helpers that the formats share."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Message = dict[str, Any]
Text = str | list[Message]  # plain text, or the messages of a conversation

ROLES = {"system", "developer", "user", "assistant", "tool"}
SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
    "function_call": "assistant",
}


class BadRow(ValueError):
    """A row that cannot be used; its message is the reason. Such rows are counted and left out."""


@dataclass(frozen=True)
class Example:
    """A preference: a prompt with a chosen and a rejected completion, or with one that is
    labelled."""

    prompt: Text
    completions: tuple[Text, ...]  # chosen and rejected, or a single one
    desirable: bool | None = None  # the label of a single completion; None for a pair
    scores: tuple[float, float] | None = None  # of chosen and rejected, where the data has them
    tools: list[Any] | None = None  # that the assistant may call; the chat template shows them
    template_options: dict[str, Any] = field(default_factory=dict)


def pair(prompt: Text, chosen: Text, rejected: Text, record: dict[str, Any]) -> Example:
    """An example of two completions, with the scores and template columns of its row.

    Raises BadRow where text and messages are mixed, a side is empty, or both sides are the same.
    """
    if len({isinstance(side, str) for side in (prompt, chosen, rejected)}) > 1:
        raise BadRow("prompt, chosen and rejected mix text and messages")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        check_completion(name, side)
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    check_prompt(prompt)
    return Example(prompt, (chosen, rejected), scores=scores(record), **template_columns(record))


def single(prompt: Text, completion: Text, desirable: bool, record: dict[str, Any]) -> Example:
    """An example of one labelled completion. Raises BadRow where it is empty, or where text and
    messages are mixed."""
    if isinstance(prompt, str) != isinstance(completion, str):
        raise BadRow("prompt and completion mix text and messages")
    check_completion("completion", completion)
    check_prompt(prompt)
    return Example(prompt, (completion,), desirable=desirable, **template_columns(record))


def check_completion(name: str, side: Text) -> None:
    """Raises BadRow where a completion is empty or does not begin with the assistant."""
    if not side or (not isinstance(side, str) and not has_content(side[0])):
        raise BadRow(f"{name} is empty")
    if not isinstance(side, str) and side[0]["role"] != "assistant":
        raise BadRow(f"{name} begins with role {side[0]['role']!r}, not 'assistant'")


def has_content(message: Message) -> bool:
    """Whether a message has text or calls a tool."""
    return bool(message.get("content") or message.get("tool_calls"))


def check_prompt(prompt: Text) -> None:
    """Raises BadRow where the roles of a prompt stand in an order that no conversation has."""
    if isinstance(prompt, str):
        return
    # Two answers in a row are let pass, since a call of a tool may be a message of its own. So is a
    # last message by the assistant, which is then continued.
    roles = [message["role"] for message in prompt]
    if not set(roles) - {"system", "developer"}:
        raise BadRow("the prompt has no message of a user")
    late_system = [role for role in roles[1:] if role in ("system", "developer")]
    twice = any(a == b == "user" for a, b in pairwise(roles))
    if late_system or twice or roles[-1] in ("system", "developer"):
        raise BadRow(f"roles in the wrong order: {', '.join(roles)}")


def messages(value: Any) -> list[Message]:
    """Messages from {role, content} or {from, value} form; a single message becomes a list.

    Raises BadRow for anything else.
    """
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadRow(f"expected messages, found {type(value).__name__}")
    return [message(entry) for entry in entries]


def message(entry: dict[str, Any]) -> Message:
    """One message in {role, content} form. Raises BadRow for an unknown role."""
    role = entry.get("role") or entry.get("from")
    role = SHAREGPT_ROLES.get(str(role), role)
    if role not in ROLES:
        raise BadRow(
            f"role {role!r} is unknown; known: {', '.join(sorted(ROLES | set(SHAREGPT_ROLES)))}"
        )
    content = entry["content"] if "content" in entry else entry.get("value")
    # A table gives every message the fields of all others; those that are None are padding.
    others = {
        k: v
        for k, v in entry.items()
        if k not in ("role", "from", "content", "value") and v is not None
    }
    return {"role": role, "content": content if content is not None else "", **others}


def text_or_messages(value: Any, name: str) -> Text:
    """The value of a column that may hold text or messages. Raises BadRow where it is missing."""
    if value is None:
        raise BadRow(f"{name} is missing")
    return value if isinstance(value, str) else messages(value)


def label(value: Any) -> bool:
    """A label as a truth value: True, False, 1 or 0. Raises BadRow for anything else."""
    # A score such as 0.5 is no label: to round it would make one up.
    if isinstance(value, bool) or (isinstance(value, (int, float)) and value in (0, 1)):
        return bool(value)
    raise BadRow(f"label {value!r} is neither true/false nor 1/0")


def scores(record: dict[str, Any]) -> tuple[float, float] | None:
    """The two scores of a row, where it has both."""
    values = [record.get("score_chosen"), record.get("score_rejected")]
    if any(not isinstance(value, (int, float)) for value in values):
        return None
    return float(values[0]), float(values[1])  # type: ignore[arg-type]


def template_columns(record: dict[str, Any]) -> dict[str, Any]:
    """The fields of an example for the chat template, from the columns ``tools`` (a list or its
    JSON) and ``chat_template_kwargs``. Raises BadRow for broken JSON."""
    tools = record.get("tools")
    try:
        tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools
    except json.JSONDecodeError as error:
        raise BadRow(f"tools is not JSON ({error})") from error
    options = {k: v for k, v in (record.get("chat_template_kwargs") or {}).items() if v is not None}
    return {"tools": tools or None, "template_options": options}


def split_common(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Splits two full texts or conversations into the prompt that they share and what follows it in
    each: (prompt, chosen, rejected).

    Text is cut in front of the last white space that both share, so never inside a word. Raises
    BadRow where the two are the same, one is empty, or conversations share no first message.
    """
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadRow("chosen and rejected mix text and messages")
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    if not chosen or not rejected:
        raise BadRow(f"{'rejected' if chosen else 'chosen'} is empty")
    # Less than the whole of either: a side keeps something of its own where it begins the other.
    same = min(common_length(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
    if isinstance(chosen, str):
        # The white space goes to the completions, since most tokenizers put it before a word.
        last_word = re.search(r"\s+\S*$", chosen[:same])
        same = last_word.start() if last_word else 0
    elif same == 0:
        raise BadRow("chosen and rejected share no first message")
    return chosen[:same], chosen[same:], rejected[same:]


def common_length(a: Sequence[Any], b: Sequence[Any]) -> int:
    """The length of the common prefix of two sequences."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)
