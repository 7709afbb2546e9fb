"""Where the pictures of a row stand in its prompt: the forms that data sets write, and the one that
chat templates of image–text models take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from diffdpo.data.text.messages import BadRow, Message, Text
from diffdpo.data.text.schema import Example

# Stands in a message's text for a picture while a row is read. No text holds it: NUL is no letter.
PLACE = "\0picture\0"
WRITTEN = "<image>"  # what LLaMA-Factory and LLaVA write in the place of a picture


def marked(value: Any) -> Any:
    """A row's value with every part {type: image} of a message in the form of a text.

    Raises BadRow where such a part holds the picture itself.
    """
    if isinstance(value, list):
        return [marked(part) for part in value]
    if not isinstance(value, dict):
        return value
    if value.get("type") == "image" and "role" not in value:
        if own := [name for name, part in value.items() if name != "type" and part]:
            raise BadRow(
                f"a part of the content holds its picture itself ({own[0]}); put it into a column"
                " images"
            )
        return {"type": "text", "text": PLACE}
    return {name: marked(part) for name, part in value.items()}


def in_parts(value: Any) -> bool:
    """Whether the first message of a user in a row's value has a list of parts for its content."""
    return isinstance(next(users_in(value), {}).get("content"), list)


def users_in(value: Any) -> Iterator[dict[str, Any]]:
    """The messages of users in a row's value, one after the other."""
    if isinstance(value, dict):
        if value.get("role") == "user":
            yield value
        value = list(value.values())
    for part in value if isinstance(value, list) else []:
        yield from users_in(part)


def placed(example: Example, count: int, parts: bool) -> Example:
    """The example with ``count`` places in its conversation. Where no place is written they come
    before the words of the first user, as in TRL, unless these are ``parts``.

    Raises BadRow where there are more or fewer places, or some are not in the prompt.
    """
    if any(count_in(side) for side in example.completions):
        raise BadRow("a completion holds a picture; only prompts do")
    prompt = example.prompt
    # In plain text the model's own mark is the place, which is looked for where it is known.
    if isinstance(prompt, str):
        return example
    if count and not count_in(prompt):
        prompt = with_texts(prompt, lambda text: text.replace(WRITTEN, PLACE))
    if count and not count_in(prompt) and not parts:
        prompt = before_first_user(prompt, PLACE * count)
    check_count(count, count_in(prompt))
    return replace(example, prompt=prompt)


def check_count(count: int, places: int) -> None:
    """Raises BadRow where a prompt has another number of places than there are pictures."""
    if count != places:
        raise BadRow(f"the row has {count} pictures, and its prompt {places} places for them")


def count_in(text: Text) -> int:
    """The places in a text or a conversation."""
    if isinstance(text, str):
        return text.count(PLACE)
    contents = (message.get("content") for message in text)
    return sum(content.count(PLACE) for content in contents if isinstance(content, str))


def without_places(text: Text) -> Text:
    """A text or a conversation without the places of pictures."""
    if isinstance(text, str):
        return text
    return with_texts(text, lambda content: content.replace(PLACE, ""))


def with_texts(messages: list[Message], change: Any) -> list[Message]:
    """The messages with ``change`` applied to the texts of their contents."""
    return [
        {**message, "content": change(message["content"])}
        if isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def before_first_user(messages: list[Message], text: str) -> list[Message]:
    """The messages with a text before that of the first user; as they are without one."""
    first = next((n for n, message in enumerate(messages) if message["role"] == "user"), None)
    if first is None:
        return messages
    opened = with_texts([messages[first]], lambda own: text + own)
    return [*messages[:first], *opened, *messages[first + 1 :]]


def as_parts(messages: list[Message]) -> list[Message]:
    """Messages as templates of image–text models take them: contents are lists of parts."""
    return with_texts(messages, parts_of)


def parts_of(text: str) -> list[dict[str, str]]:
    """A text with places as a list of parts. One without any is a single part, even if empty."""
    pieces = [piece for piece in re.split(f"({PLACE})", text) if piece] or [""]
    return [
        {"type": "image"} if piece == PLACE else {"type": "text", "text": piece} for piece in pieces
    ]
