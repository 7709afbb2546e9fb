"""The one schema of a text preference row, and the helpers that every format shares."""

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
    """A row that cannot be used, and why; it is counted, named and left out."""


@dataclass(frozen=True)
class Example:
    """A prompt with two completions, the preferred one first, or with one completion and its
    label."""

    prompt: Text
    completions: tuple[Text, ...]
    desirable: bool | None = None
    scores: tuple[float, float] | None = None  # of chosen and rejected, where the data has them
    tools: list[Any] | None = None
    template_options: dict[str, Any] = field(default_factory=dict)


def pair(prompt: Text, chosen: Text, rejected: Text, record: dict[str, Any]) -> Example:
    """An example of two completions, with what the row says beside them.

    Raises BadRow where kinds are mixed, a side is empty, or the two sides are the same.
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
    """An example of one completion with its label. Raises BadRow where it is empty or kinds are
    mixed."""
    if isinstance(prompt, str) != isinstance(completion, str):
        raise BadRow("prompt and completion mix text and messages")
    check_completion("completion", completion)
    check_prompt(prompt)
    return Example(prompt, (completion,), desirable=desirable, **template_columns(record))


def check_completion(name: str, side: Text) -> None:
    """Raises BadRow where a completion says nothing or is not the assistant's."""
    if not side or (not isinstance(side, str) and not says_something(side[0])):
        raise BadRow(f"{name} is empty")
    if not isinstance(side, str) and side[0]["role"] != "assistant":
        raise BadRow(f"{name} begins with role {side[0]['role']!r}, not 'assistant'")


def says_something(message: Message) -> bool:
    """Whether a message has words or calls a tool."""
    return bool(message.get("content") or message.get("tool_calls"))


def check_prompt(prompt: Text) -> None:
    """Raises BadRow where roles stand in an order that no conversation has."""
    if isinstance(prompt, str):
        return
    roles = [message["role"] for message in prompt]
    if not set(roles) - {"system", "developer"}:
        raise BadRow("the prompt has no message of a user")
    spoken = [role for role in roles[1:] if role in ("system", "developer")]
    twice = any(a == b == "user" for a, b in pairwise(roles))
    if spoken or twice or roles[-1] in ("system", "developer"):
        raise BadRow(f"roles in the wrong order: {', '.join(roles)}")


def messages(value: Any) -> list[Message]:
    """Messages in {role, content} or {from, value} form, with the columns that a table padded in
    taken out.

    Raises BadRow for anything else.
    """
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadRow(f"expected messages, found {type(value).__name__}")
    return [message(entry) for entry in entries]


def message(entry: dict[str, Any]) -> Message:
    """One message. Raises BadRow for a role that does not exist."""
    role = entry.get("role") or entry.get("from")
    role = SHAREGPT_ROLES.get(str(role), role)
    if role not in ROLES:
        raise BadRow(
            f"role {role!r} is unknown; known: {', '.join(sorted(ROLES | set(SHAREGPT_ROLES)))}"
        )
    content = entry["content"] if "content" in entry else entry.get("value")
    rest = {
        k: v
        for k, v in entry.items()
        if k not in ("role", "from", "content", "value") and v is not None
    }
    return {"role": role, "content": content if content is not None else "", **rest}


def text_or_messages(value: Any, name: str) -> Text:
    """A column that may hold either. Raises BadRow where it holds nothing."""
    if value is None:
        raise BadRow(f"{name} is missing")
    return value if isinstance(value, str) else messages(value)


def label(value: Any) -> bool:
    """True, False, 1 or 0. Raises BadRow for anything else."""
    if isinstance(value, bool) or (isinstance(value, (int, float)) and value in (0, 1)):
        return bool(value)
    raise BadRow(f"label {value!r} is neither true/false nor 1/0")


def scores(record: dict[str, Any]) -> tuple[float, float] | None:
    """The two scores of a row, where it has both."""
    found = [record.get("score_chosen"), record.get("score_rejected")]
    if any(not isinstance(score, (int, float)) for score in found):
        return None
    return float(found[0]), float(found[1])  # type: ignore[arg-type]


def template_columns(record: dict[str, Any]) -> dict[str, Any]:
    """What a row hands to its chat template: ``tools`` (a list or its JSON) and
    ``chat_template_kwargs``."""
    tools = record.get("tools")
    try:
        tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools
    except json.JSONDecodeError as error:
        raise BadRow(f"tools is not JSON ({error})") from error
    options = {k: v for k, v in (record.get("chat_template_kwargs") or {}).items() if v is not None}
    return {"tools": tools or None, "template_options": options}


def split_common(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """The prompt that two full texts or conversations share, and what each makes of it.

    Text is cut in front of the last white space that both share, so never inside a word, and each
    side keeps words of its own also where one is the beginning of the other. Raises BadRow where
    nothing can be told apart.
    """
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise BadRow("chosen and rejected mix text and messages")
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")
    if not chosen or not rejected:
        raise BadRow(f"{'rejected' if chosen else 'chosen'} is empty")
    same = min(common_length(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
    if isinstance(chosen, str):
        found = re.search(r"\s+\S*$", chosen[:same])
        same = found.start() if found else 0
    elif same == 0:
        raise BadRow("chosen and rejected share no first message")
    return chosen[:same], chosen[same:], rejected[same:]


def common_length(a: Sequence[Any], b: Sequence[Any]) -> int:
    """With how many elements two sequences begin in common."""
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)
