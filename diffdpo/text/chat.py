"""Renders an example to text: conversations through the chat template, as TRL's
``apply_chat_template`` does, plain text as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from diffdpo.data.text.schema import BadRow, Example, Message, common_length
from diffdpo.errors import UserError


@dataclass(frozen=True)
class Rendered:
    """The texts of an example."""

    prompt: str
    wholes: tuple[str, ...]  # for every completion, the prompt and the completion as one text
    templated: bool  # whether a chat template wrote them


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The example as the text that the model will read.

    Raises UserError for messages without a chat template, BadRow where the template refuses them.
    """
    prompt = example.prompt
    if isinstance(prompt, str):
        return Rendered(
            prompt, tuple(prompt + str(completion) for completion in example.completions), False
        )
    if not tokenizer.chat_template:
        raise UserError(
            "the data are conversations, and the tokenizer has no chat template; name one with one,"
            " or text"
        )
    options = {"tools": example.tools, **example.template_options}
    wholes = [
        apply_template(tokenizer, prompt + list(side), **options)  # type: ignore[arg-type]
        for side in example.completions
    ]
    # A template may open the answer, say with <think>, where it writes a prompt alone, and not
    # where an answer follows. What all have in common is the prompt; the rest belongs to the
    # completions.
    prompt_text = apply_template(tokenizer, prompt, **opening(prompt), **options)
    shared = min(common_length(prompt_text, whole) for whole in wholes)
    return Rendered(prompt_text[:shared], tuple(wholes), True)


def opening(prompt: list[Message]) -> dict[str, bool]:
    """The template's option for the end of a prompt: after the assistant's own words the message
    is continued, after a user's or a tool's an answer is opened."""
    if prompt[-1]["role"] == "assistant":
        return {"continue_final_message": True}
    return {"add_generation_prompt": True}


def apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], **options: Any
) -> str:
    """The template's text. Raises BadRow where the template does not take these messages."""
    # A template raises what it likes: its own raise_exception, or Python's errors for a message
    # that lacks a field.
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise BadRow(
            f"the chat template refuses it ({' '.join(str(error).split())[:120]})"
        ) from error
