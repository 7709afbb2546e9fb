"""The chat templates in which pipelines hand prompts to language models."""

from __future__ import annotations

from typing import Any

MARK = "\ufffc"  # a character that stands in no template


def before_prompt(tokenizer: Any, system: str | None = None) -> str:
    """What a tokenizer's template puts before a user's message, after one of the ``system``."""
    messages = [("system", system), ("user", MARK)]
    # Processors take contents in parts, tokenizers take them as text.
    in_parts = hasattr(tokenizer, "tokenizer")
    conversation = [
        {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}
        for role, text in messages
        if text is not None
    ]
    rendered: str = tokenizer.apply_chat_template(conversation, tokenize=False)
    return rendered.split(MARK)[0]
