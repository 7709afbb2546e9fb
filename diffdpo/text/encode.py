"""From texts to tokens: the boundary of prompt and completion on token level, BOS and EOS once, and
truncation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from diffdpo.data.text.schema import common_length
from diffdpo.text.chat import Rendered


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and of its completions; ``cut`` says whether the length limit touched
    them."""

    prompt: list[int]
    completions: tuple[list[int], ...]
    cut: str = ""  # "", "prompt" or "completion"


def encode(rendered: Rendered, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Tokens of an example.

    Prompt and completion are tokenised as one text, as they will be read. The completion begins
    where the tokens of all sides part from those of the prompt alone, which is earlier than its
    first letter where tokens merge across it.
    """
    alone = tokenize(rendered.prompt, tokenizer, rendered.templated)
    wholes = [tokenize(whole, tokenizer, rendered.templated) for whole in rendered.wholes]
    if not rendered.templated:
        wholes = [end_once(whole, tokenizer) for whole in wholes]
    start = min(common_length(alone, whole) for whole in wholes)
    return Encoded(alone[:start], tuple(whole[start:] for whole in wholes))


def tokenize(text: str, tokenizer: PreTrainedTokenizerBase, templated: bool) -> list[int]:
    """Token ids. A template writes its own BOS; plain text gets the tokenizer's, unless it begins
    with it."""
    opened = templated or bool(tokenizer.bos_token and text.startswith(str(tokenizer.bos_token)))
    return list(tokenizer(text, add_special_tokens=not opened)["input_ids"])


def end_once(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """``ids`` with one EOS at the end, whether the text, the tokenizer or nobody put it there."""
    end = tokenizer.eos_token_id
    if end is None:
        return ids
    last = len(ids)
    while last and ids[last - 1] == end:
        last -= 1
    return [*ids[:last], end]


def truncate(encoded: Encoded, limit: int | None, bos: int | None) -> Encoded:
    """``encoded`` in at most ``limit`` tokens: the completions and the end of the prompt stay, and
    its BOS.

    A completion too long by itself loses its end; one token of the prompt is left to predict its
    first token from.
    """
    longest = max(len(completion) for completion in encoded.completions)
    if limit is None or len(encoded.prompt) + longest <= limit:
        return encoded
    keep = min(1, len(encoded.prompt))
    fitting = tuple(completion[: limit - keep] for completion in encoded.completions)
    room = max(keep, limit - longest)
    opened = room > 1 and encoded.prompt[:1] == [bos]
    prompt = encoded.prompt[len(encoded.prompt) - room + opened :] if room else []
    cut = "completion" if fitting != encoded.completions else "prompt"
    return replace(encoded, prompt=encoded.prompt[:opened] + prompt, completions=fitting, cut=cut)
