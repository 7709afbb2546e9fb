"""Turns texts into tokens: finds where the prompt ends among the tokens, and puts BOS and EOS
once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from diffdpo.data.text.schema import common_length
from diffdpo.text.tokens.chat import Rendered

# Letters that the tokenizer gets at once. It keeps a hundred bytes for each token until it returns.
LETTERS = 2**17


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and of its completions."""

    prompt: list[int]
    completions: tuple[list[int], ...]


Tokens = list[int] | Exception  # of a text, or why the tokenizer does not take it


def encode_all(
    examples: Sequence[Rendered], tokenizer: PreTrainedTokenizerBase
) -> list[Encoded | Exception]:
    """Tokens of every example, or what the tokenizer raised at it. The tokenizer is called once for
    all: a call takes as long as the tokens of a hundred words.

    Prompt and completion are tokenised as one text, as they will be read. The completions begin
    where the tokens of a side first differ from those of the prompt alone; that is before their
    first letter where a token spans the end of the prompt.
    """
    texts = [(text, r.templated) for r in examples for text in (r.prompt, *r.wholes)]
    tokens = iter(tokenize_all(texts, tokenizer))
    found: list[Encoded | Exception] = []
    for rendered in examples:
        prompt, *wholes = (next(tokens) for _ in range(1 + len(rendered.wholes)))
        found.append(divided(prompt, wholes, rendered.templated, tokenizer))
    return found


def divided(
    prompt: Tokens, wholes: list[Tokens], templated: bool, tokenizer: PreTrainedTokenizerBase
) -> Encoded | Exception:
    """An example from the tokens of its prompt and of its whole texts, or the first error of
    them."""
    sides = []
    for whole in (prompt, *wholes):
        if isinstance(whole, Exception):
            return whole
        sides.append(whole)
    head, *sides = sides
    # A template has ended the answer with a mark of its own, which need not be EOS.
    if not templated:
        sides = [end_once(whole, tokenizer) for whole in sides]
    # One boundary for all sides, so that both completions of a pair have the same prompt.
    start = min(common_length(head, whole) for whole in sides)
    return Encoded(head[:start], tuple(whole[start:] for whole in sides))


def tokenize_all(
    texts: Sequence[tuple[str, bool]], tokenizer: PreTrainedTokenizerBase
) -> list[Tokens]:
    """Token ids of (text, whether a template wrote it), or what the tokenizer raised at it."""
    found: list[Tokens] = [[] for _ in texts]
    opened = [is_opened(text, templated, tokenizer) for text, templated in texts]
    for value in (False, True):
        places = [place for place, given in enumerate(opened) if given is value]
        given = together([texts[place][0] for place in places], tokenizer, not value)
        for place, ids in zip(places, given, strict=True):
            found[place] = ids
    return found


def together(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, special: bool
) -> Iterator[Tokens]:
    """Token ids of texts, or what the tokenizer raised at one."""
    for some in parts(texts):
        try:
            yield from tokenizer(
                some,
                add_special_tokens=special,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        # One text that the tokenizer does not take fails the whole list.
        except Exception:
            yield from (alone(text, tokenizer, special) for text in some)


def parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in lists of so many letters, at least one each."""
    some: list[str] = []
    letters = 0
    for text in texts:
        if some and letters + len(text) > LETTERS:
            yield some
            some, letters = [], 0
        some.append(text)
        letters += len(text)
    if some:
        yield some


def alone(text: str, tokenizer: PreTrainedTokenizerBase, special: bool) -> Tokens:
    """Token ids of one text, or what the tokenizer raised at it."""
    try:
        return list(tokenizer(text, add_special_tokens=special)["input_ids"])
    except Exception as error:
        return error


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase, templated: bool) -> list[int]:
    """Token ids of a text. Plain text gets the tokenizer's BOS unless it begins with it; a template
    has written its own."""
    opened = is_opened(text, templated, tokenizer)
    return list(tokenizer(text, add_special_tokens=not opened)["input_ids"])


def is_opened(text: str, templated: bool, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text has all the marks that it gets: a template's, or one that begins with BOS."""
    return templated or bool(tokenizer.bos_token and text.startswith(str(tokenizer.bos_token)))


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
