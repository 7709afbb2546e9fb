"""Renders an example to text: conversations through the chat template, as TRL's
``apply_chat_template`` does, plain text as it is."""

from __future__ import annotations

import inspect
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from diffdpo.data.text.messages import BadRow, Message, Text, squeezed
from diffdpo.data.text.schema import Example, common_length
from diffdpo.errors import UserError, short
from diffdpo.text.vision.places import PLACE, as_parts

PATIENCE = 20.0  # seconds that a template may take for one text


@dataclass(frozen=True)
class Rendered:
    """The texts of an example."""

    prompt: str
    wholes: tuple[str, ...]  # for every completion, the prompt and the completion as one text
    templated: bool  # whether a chat template wrote them


def render(
    example: Example,
    tokenizer: PreTrainedTokenizerBase,
    shaped: Callable[[list[Message]], list[Message]] = list,
) -> Rendered:
    """The example as the text that the model will read; ``shaped`` puts messages into the form
    that the template takes.

    Raises UserError for messages without a chat template, BadRow where the template refuses them.
    """
    prompt = example.prompt
    if isinstance(prompt, str):
        return Rendered(
            prompt, tuple(prompt + str(completion) for completion in example.completions), False
        )
    if not tokenizer.chat_template:
        raise UserError(
            "the data are conversations, and the tokenizer has no chat template; name one with"
            " --chat_template, a Jinja file or the folder of a tokenizer that has one"
        )
    check_options(example.template_options, tokenizer)
    options = {"tools": example.tools, **example.template_options}
    wholes = [
        apply_template(tokenizer, shaped(joined(prompt, side)), **options)  # type: ignore[arg-type]
        for side in example.completions
    ]
    # A template may open the answer, say with <think>, where it writes a prompt alone, and not
    # where an answer follows. What all have in common is the prompt; the rest belongs to the
    # completions.
    prompt_text = apply_template(tokenizer, shaped(prompt), **opening(prompt), **options)
    shared = min(common_length(prompt_text, whole) for whole in wholes)
    if prompt[-1]["role"] == "assistant" and squeezed(prompt_text[shared:]):
        raise BadRow("the chat template writes the begun answer otherwise than the whole one")
    return Rendered(prompt_text[:shared], tuple(wholes), True)


def joined(prompt: list[Message], side: list[Message]) -> list[Message]:
    """The whole conversation. After a prompt that ends with the assistant's words the completion
    goes on in the same message: one turn, as an answer that was begun for the model.

    Raises BadRow where the turn cannot be one.
    """
    last, first = prompt[-1], side[0]
    if last["role"] != "assistant":
        return [*prompt, *side]
    if last.get("tool_calls"):
        raise BadRow("the prompt ends with a call of a tool, which no answer continues")
    if first.get("reasoning_content") or first.get("thinking"):
        raise BadRow(
            "the prompt ends with the assistant's words, and the completion begins with thoughts"
        )
    words = str(last.get("content") or "") + str(first.get("content") or "")
    return [*prompt[:-1], {**last, **first, "content": words}, *side[1:]]


def check_options(options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises BadRow where a row sets an option of the tokenizer in place of one of the template."""
    if not options:
        return
    taken = set(inspect.signature(tokenizer.apply_chat_template).parameters)
    if own := sorted(taken & set(options)):
        raise BadRow(f"chat_template_kwargs sets {own[0]}, which is no option of a template")


def opening(prompt: list[Message]) -> dict[str, bool]:
    """The template's option for the end of a prompt: after the assistant's own words the message
    is continued, after a user's or a tool's an answer is opened."""
    if prompt[-1]["role"] == "assistant":
        return {"continue_final_message": True}
    return {"add_generation_prompt": True}


def apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: list[Message], **options: Any
) -> str:
    """The template's text.

    Raises BadRow where the template does not take these messages, UserError where it does not end.
    """
    # Some templates, as DeepSeek's, put the arguments of a call between other texts instead of
    # writing them as JSON; those get the JSON.
    forms = [messages]
    if any("tool_calls" in message for message in messages):
        forms.append(with_textual_arguments(messages))
    for form in forms:
        try:
            with patience(PATIENCE):
                return str(tokenizer.apply_chat_template(form, tokenize=False, **options))
        except TimeoutError as error:
            raise UserError(
                f"the chat template of the tokenizer takes more than {PATIENCE:g} s for one text;"
                " mend its loops"
            ) from error
        # Its own raise_exception, a missing field, another type, too deep, too large.
        except Exception as error:
            cause = error
    reason = short(cause, 120) or type(cause).__name__
    raise BadRow(f"the chat template refuses it ({reason})") from cause


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template writes behind an answer; None where it writes none of its
    own there, or takes no conversation of a question and an answer."""
    said = "0123456789"
    if not tokenizer.chat_template:
        return None
    turns: list[Message] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": said},
    ]
    for form in (turns, as_parts(turns)):  # templates of image–text models may take parts alone
        with suppress(BadRow):
            _, found, behind = apply_template(tokenizer, form).rpartition(said)
            if found:
                ids = tokenizer(behind.strip(), add_special_tokens=False)["input_ids"][:1]
                return next((id for id in ids if id in tokenizer.added_tokens_decoder), None)
    return None


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in what takes longer. Only in the main thread: no other gets signals."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def with_textual_arguments(messages: list[Message]) -> list[Message]:
    """The messages with the arguments of tool calls as JSON."""

    def as_text(call: dict[str, Any]) -> dict[str, Any]:
        function = call["function"]
        arguments = json.dumps(function.get("arguments", {}), ensure_ascii=False)
        return {**call, "function": {**function, "arguments": arguments}}

    return [
        {**message, "tool_calls": [as_text(call) for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in messages
    ]


def left_out(example: Example, rendered: Rendered) -> str | None:
    """A text of the prompt or of a completion, or the name of a tool, that the template does not
    write; None where it writes all."""
    if not rendered.templated:
        return None
    told = [*asked(example.prompt), *(tool_name(tool) for tool in example.tools or ())]
    for side, whole in zip(example.completions, rendered.wholes, strict=True):
        text = squeezed(whole)
        for part in [*parts(side), *told]:
            if squeezed(part) not in text:
                return part
    return None


def parts(side: Text) -> Iterator[str]:
    """The assistant's texts in a completion: contents, thoughts, names of called tools."""
    for message in side:
        # What a tool says may be written as JSON, and is not the assistant's.
        if isinstance(message, dict) and message["role"] == "assistant":
            yield from (
                message[name]
                for name in ("reasoning_content", "thinking", "content")
                if isinstance(message.get(name), str)
            )
            yield from (call["function"]["name"] for call in message.get("tool_calls", ()))


def asked(prompt: Text) -> Iterator[str]:
    """The texts of a prompt that every template is to write: those of system and user, and the
    names of called tools. Of earlier answers templates drop the thoughts."""
    for message in prompt:
        if isinstance(message, dict):
            if message["role"] in ("system", "developer", "user"):
                yield from str(message.get("content") or "").split(PLACE)
            yield from (call["function"]["name"] for call in message.get("tool_calls", ()))


def tool_name(tool: dict[str, Any]) -> str:
    """The name of a tool, '' where it has none."""
    function = tool.get("function", tool)
    return str(function.get("name", "")) if isinstance(function, dict) else ""
