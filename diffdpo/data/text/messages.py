"""Messages as chat templates take them, from the forms that data sets write them in."""

from __future__ import annotations

import json
import re
from typing import Any

from diffdpo.errors import short

Message = dict[str, Any]
Text = str | list[Message]  # plain text, or the messages of a conversation

ROLES = {"system", "developer", "user", "assistant", "tool"}
SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
    "function_call": "assistant",
    "function": "tool",  # OpenAI's older word
}
# Fields of a message that are read by name; all others reach the template as they are.
NAMED = {"role", "from", "content", "value", "tool_calls", "function_call", "loss_weight"}
# Messages as a CSV file has them: in JSON, or as Python prints them.
WRITTEN = re.compile(r"""\s*\[\s*\{\s*['"](role|from|content|value)['"]\s*:""")
THOUGHTS = ("reasoning_content", "thinking")


class BadRow(ValueError):
    """A row that cannot be used; its message is the reason. Such rows are counted and left out."""


def without_nulls(value: Any) -> Any:
    """``value`` without the fields that are None, at every depth.

    A table gives every object the fields of all others; those that are None are padding.
    """
    if isinstance(value, dict):
        return {name: without_nulls(part) for name, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def squeezed(text: str) -> str:
    """A text without its white space, which templates and data sets trim and write anew."""
    return "".join(text.split())


def contents(messages: list[Message]) -> str:
    """What all messages say, one below the other."""
    return "\n".join(str(message.get("content") or "") for message in messages)


def text_or_messages(value: Any, name: str) -> Text:
    """The value of a column that may hold text or messages.

    Raises BadRow where it is missing, is something else, or is messages that were written as text.
    """
    if value is None:
        raise BadRow(f"{name} is missing")
    if isinstance(value, str) and WRITTEN.match(value):
        raise BadRow(f"{name} is text that writes out messages; store them as a list, as JSON does")
    if isinstance(value, (bool, int, float)):
        raise BadRow(f'{name} is a number ({short(value)}), not text; JSON can tell "4" from 4')
    return value if isinstance(value, str) else messages(value)


def answer(value: Any, name: str) -> list[Message]:
    """A side as messages; text is the assistant's. Raises BadRow where it is missing."""
    side = text_or_messages(value, name)
    return [{"role": "assistant", "content": side}] if isinstance(side, str) else side


def messages(value: Any) -> list[Message]:
    """Messages from {role, content} or {from, value} form; a single message becomes a list.

    Raises BadRow for anything else.
    """
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BadRow(f"expected messages, found {type(value).__name__}")
    return [message(entry) for entry in entries]


def message(entry: dict[str, Any]) -> Message:
    """One message in {role, content} form.

    Raises BadRow for an unknown role, for content that is not text, and for none.
    """
    role = entry.get("role") or entry.get("from")
    if role is None:
        raise BadRow(f"a message has no role; its fields are {fields(entry)}")
    content = entry["content"] if "content" in entry else entry.get("value")
    if role == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": called(content)}
    role = SHAREGPT_ROLES.get(str(role), role)
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(sorted(ROLES | set(SHAREGPT_ROLES)))
        raise BadRow(f"role {short(repr(role))} is unknown; known: {known}")
    made: Message = {"role": role, "content": text_of(content)}
    made |= {name: part for name, part in entry.items() if name not in NAMED and part is not None}
    if calls := called_in(entry):
        made["tool_calls"] = calls
        # Some templates ask whether the content of a call is none.
        made["content"] = made["content"] if content is not None else None
    # A tool may say nothing. For any other an empty text is one that stands under another name.
    elif content is None and role != "tool" and not any(map(made.get, THOUGHTS)):
        raise BadRow(f"a message of {role} has no content; its fields are {fields(entry)}")
    return made


def called_in(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The tool calls of a message; ``function_call`` is a single one in OpenAI's older form."""
    calls = entry.get("tool_calls")
    if not calls and entry.get("function_call"):
        calls = [decoded(entry["function_call"], "function_call")]
    return tool_calls(calls) if calls else []


def fields(entry: dict[str, Any]) -> str:
    """The names of a message's fields, for a line to the user."""
    return short(", ".join(map(str, entry))) or "none"


def text_of(content: Any) -> str:
    """Content as text: the parts of a list of texts are joined. Raises BadRow for other content."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise BadRow(f"content is {type(content).__name__}, not text")
    return "".join(text_part(part) for part in content)


def text_part(part: Any) -> str:
    """The text of one part, a string or {type: text, text or value}. Raises BadRow for others."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or part.get("type", "text") != "text":
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        raise BadRow(f"a part of the content is {short(repr(kind))}; only text is read")
    text = part.get("text", part.get("value"))
    if not isinstance(text, str):
        raise BadRow("a part of the content has no text")
    return text


def called(content: Any) -> list[dict[str, Any]]:
    """The tool calls of a ``function_call`` turn: an object or a list of objects with name and
    arguments, as JSON."""
    calls = decoded(content, "a function_call")
    return tool_calls([calls] if isinstance(calls, dict) else calls)


def tool_calls(value: Any) -> list[dict[str, Any]]:
    """Tool calls in {type, function: {name, arguments}} form with arguments as an object.

    Templates write the arguments as JSON: those that are JSON already would be encoded twice.

    Raises BadRow for broken JSON and for calls without a name.
    """
    calls = decoded(value, "tool_calls")
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise BadRow("tool_calls is not a list of calls")
    return [tool_call(call) for call in calls]


def tool_call(call: dict[str, Any]) -> dict[str, Any]:
    """One call; see ``tool_calls``."""
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("a tool call has no name")
    around = call if "function" in call else {}
    if isinstance(arguments := function.get("arguments"), str):
        read = decoded(arguments, "arguments of a tool call") if arguments.strip() else {}
        function = {**function, "arguments": read}
    return {"type": "function", **around, "function": function}


def decoded(value: Any, name: str) -> Any:
    """``value``, read as JSON where it is text. Raises BadRow for broken JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadRow(f"{name} is not JSON ({short(error)})") from error
