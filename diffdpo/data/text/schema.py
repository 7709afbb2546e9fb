"""The one schema that every text format is read into, and the helpers that the formats share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from diffdpo.data.text.messages import BadRow, Message, Text, decoded
from diffdpo.data.values import as_number
from diffdpo.errors import short

TRUTHS = {"true": True, "false": False}


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


def pair(prompt: Text, chosen: Text, rejected: Text, record: Mapping[str, Any]) -> Example:
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
    columns = template_columns(prompt, record)
    return Example(prompt, (chosen, rejected), scores=scores(record), **columns)


def single(prompt: Text, completion: Text, desirable: bool, record: Mapping[str, Any]) -> Example:
    """An example of one labelled completion. Raises BadRow where it is empty, or where text and
    messages are mixed."""
    if isinstance(prompt, str) != isinstance(completion, str):
        raise BadRow("prompt and completion mix text and messages")
    check_completion("completion", completion)
    check_prompt(prompt)
    columns = template_columns(prompt, record)
    return Example(prompt, (completion,), desirable=desirable, **columns)


def check_completion(name: str, side: Text) -> None:
    """Raises BadRow where a completion is empty or does not begin with the assistant."""
    if isinstance(side, str):
        if not side.strip():
            raise BadRow(f"{name} is empty")
        return
    if not side or not has_content(side[0]):
        raise BadRow(f"{name} is empty")
    if side[0]["role"] != "assistant":
        raise BadRow(f"{name} begins with role {side[0]['role']!r}, not 'assistant'")


def has_content(message: Message) -> bool:
    """Whether a message has text, thoughts or calls of a tool."""
    texts = [message.get("content"), message.get("reasoning_content"), message.get("thinking")]
    return bool(message.get("tool_calls")) or any(str(text or "").strip() for text in texts)


def check_prompt(prompt: Text) -> None:
    """Raises BadRow where a conversation has no message before the completion.

    The order of roles is the chat template's affair.
    """
    if not isinstance(prompt, str) and not prompt:
        raise BadRow("the prompt has no messages")


def with_system(prompt: Text, record: Mapping[str, Any]) -> Text:
    """A conversation, opened by the text of a ``system`` column unless it has an opening of its
    own; plain text as it is."""
    # Of a column that plain text has no place for it must not be said that it was read.
    if isinstance(prompt, str) or not (system := record.get("system")):
        return prompt
    if not isinstance(system, str):
        raise BadRow(f"system is {type(system).__name__}, not text")
    if prompt and prompt[0]["role"] in ("system", "developer"):
        return prompt
    return [{"role": "system", "content": system}, *prompt]


def user_turn(text: str) -> list[Message]:
    """A conversation of one message, the user's."""
    return [{"role": "user", "content": text}]


def label(value: Any) -> bool:
    """A label as a truth value: True, False, 1 or 0, or a word for one of them, as a CSV file has
    them where another cell says NA. Raises BadRow for anything else."""
    # A score such as 0.5 is no label: to round it would make one up.
    number = TRUTHS.get(value.lower(), value) if isinstance(value, str) else value
    if (number := as_number(number)) in (0, 1):
        return bool(number)
    raise BadRow(f"label {short(repr(value))} is neither true/false nor 1/0")


def scores(record: Mapping[str, Any]) -> tuple[float, float] | None:
    """The two scores of a row, where it has both as finite numbers."""
    chosen, rejected = (as_number(record.get(name)) for name in ("score_chosen", "score_rejected"))
    return (chosen, rejected) if isfinite(chosen) and isfinite(rejected) else None


def template_columns(prompt: Text, record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an example for the chat template, from the columns ``tools`` (a list or its
    JSON) and ``chat_template_kwargs``; none where the prompt is plain text, which no template
    writes. Raises BadRow where they are something else."""
    if isinstance(prompt, str):
        return {}
    tools = record.get("tools")
    tools = decoded(tools, "tools") if not isinstance(tools, str) or tools.strip() else None
    if tools and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise BadRow("tools is not a list of tools")
    options = decoded(record.get("chat_template_kwargs") or {}, "chat_template_kwargs")
    if not isinstance(options, dict):
        raise BadRow(f"chat_template_kwargs is {type(options).__name__}, not an object")
    return {"tools": [in_full(tool) for tool in tools or ()] or None, "template_options": options}


def in_full(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool in {type, function} form; LLaMA-Factory writes the function alone."""
    bare = "name" in tool and "type" not in tool and "function" not in tool
    return {"type": "function", "function": tool} if bare else tool


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
    """The length of the common prefix of two texts or of two lists."""
    same, different = 0, min(len(a), len(b))
    if a[:different] == b[:different]:
        return different
    # By halves: slices are compared without a step of Python for each letter.
    while different - same > 1:
        middle = (same + different) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            different = middle
    return same
