"""From an example to texts: chat templates as TRL's ``apply_chat_template``, plain text as it
is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from diffdpo.data.text.schema import BadRow, Example, Message, common_length
from diffdpo.errors import UserError


@dataclass(frozen=True)
class Rendered:
    """The prompt, and per completion the prompt and completion as one text; ``templated``: a
    template wrote them."""

    prompt: str
    wholes: tuple[str, ...]
    templated: bool


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """The example as the model will read it.

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
    wholes = [apply(tokenizer, prompt + list(side), **options) for side in example.completions]  # type: ignore[arg-type]
    # A template may open the answer, say with <think>, where it writes a prompt alone, and not
    # where an answer follows. What all have in common is the prompt; the rest belongs to the
    # completions.
    alone = apply(tokenizer, prompt, **opening(prompt), **options)
    shared = min(common_length(alone, whole) for whole in wholes)
    return Rendered(alone[:shared], tuple(wholes), True)


def opening(prompt: list[Message]) -> dict[str, bool]:
    """A prompt that ends with the user or a tool is answered; one that ends with the assistant is
    continued."""
    if prompt[-1]["role"] == "assistant":
        return {"continue_final_message": True}
    return {"add_generation_prompt": True}


def apply(tokenizer: PreTrainedTokenizerBase, messages: list[Message], **options: Any) -> str:
    """The template's text. Raises BadRow where the template does not take these messages."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise BadRow(
            f"the chat template refuses it ({' '.join(str(error).split())[:120]})"
        ) from error
