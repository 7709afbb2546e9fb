"""Turns texts into tokens: finds where the prompt ends among the tokens, and puts BOS and EOS
once."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from diffdpo.data.text.schema import common_length
from diffdpo.text.chat import Rendered


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and of its completions."""

    prompt: list[int]
    completions: tuple[list[int], ...]


def encode(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Tokens of an example.

    Prompt and completion are tokenised as one text, as they will be read. The completions begin
    where the tokens of a side first differ from those of the prompt alone; that is before their
    first letter where a token spans the end of the prompt.
    """
    prompt = tokenize(rendered.prompt, tokenizer, rendered.templated)
    wholes = [tokenize(whole, tokenizer, rendered.templated) for whole in rendered.wholes]
    # A template has ended the answer with a mark of its own, which need not be EOS.
    if not rendered.templated:
        wholes = [end_once(whole, tokenizer) for whole in wholes]
    # One boundary for all sides, so that both completions of a pair have the same prompt.
    start = min(common_length(prompt, whole) for whole in wholes)
    return Encoded(prompt[:start], tuple(whole[start:] for whole in wholes))


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase, templated: bool) -> list[int]:
    """Token ids of a text. Plain text gets the tokenizer's BOS unless it begins with it; a template
    has written its own."""
    opened = templated or bool(tokenizer.bos_token and text.startswith(str(tokenizer.bos_token)))
    return list(tokenizer(text, add_special_tokens=not opened)["input_ids"])


def end_once(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """``ids`` with exactly one EOS at the end, whether or not the text or the tokenizer ended with
    one; unchanged where the tokenizer has none."""
    end = tokenizer.eos_token_id
    if end is None:
        return ids
    last = len(ids)
    while last and ids[last - 1] == end:
        last -= 1
    return [*ids[:last], end]
