"""The tokenizers of language models, and the chat templates in which they are given prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MARK = "\ufffc"  # a character that stands in no template


def user_message(text: str) -> list[dict[str, Any]]:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def before_mark(tokenizer: Any, conversation: Sequence[dict[str, Any]]) -> str:
    """What a tokenizer's template puts before the ``MARK`` that a conversation holds."""
    rendered: str = tokenizer.apply_chat_template(list(conversation), tokenize=False)
    return rendered.split(MARK)[0]


def plain_tokenizer(tokenizer: Any) -> Any:
    """The tokenizer of a processor, which takes pictures as well; a tokenizer is its own."""
    return getattr(tokenizer, "tokenizer", tokenizer)
