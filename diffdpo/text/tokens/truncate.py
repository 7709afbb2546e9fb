"""Cuts a prompt and its completions to the length limit. ADD A RULE HERE: write a function and add
a line to the table."""

from __future__ import annotations

from collections.abc import Callable

from diffdpo.data.text.messages import BadRow
from diffdpo.text.tokens.encode import Encoded

Rule = Callable[[Encoded, int, "int | None"], Encoded]  # (tokens, limit, BOS) -> tokens


class PromptTooLong(BadRow):
    """A prompt that leaves no room for any completion."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens and fills --max_length {limit}")
        self.tokens = tokens


def keep_start(encoded: Encoded, limit: int, bos: int | None) -> Encoded:
    """Each side loses its end, as in TRL 1.16: the prompt stays whole, and a short completion as
    well, however long the other one is.

    Raises PromptTooLong where the prompt alone fills the limit; TRL leaves out such rows.
    """
    room = limit - len(encoded.prompt)
    if room <= 0:
        raise PromptTooLong(len(encoded.prompt), limit)
    return Encoded(encoded.prompt, tuple(ids[:room] for ids in encoded.completions))


def keep_end(encoded: Encoded, limit: int, bos: int | None) -> Encoded:
    """The prompt loses its beginning, but not its BOS, down to half of the limit; what is still too
    long loses its end. Rows with long prompts stay."""
    longest = max(map(len, encoded.completions))
    room = min(len(encoded.prompt), max(limit - longest, (limit + 1) // 2))
    # With room for a single token, the last one of the prompt stays, not the BOS.
    opened = room > 1 and encoded.prompt[:1] == [bos]
    prompt = encoded.prompt
    if room < len(prompt):
        prompt = prompt[:opened] + prompt[len(prompt) - room + opened :]
    return Encoded(prompt, tuple(ids[: limit - room] for ids in encoded.completions))


def proportional(encoded: Encoded, limit: int, bos: int | None) -> Encoded:
    """Prompt and completions lose their ends, as in LLaMA-Factory: a part that fits into half of
    the limit stays whole, else both shrink in proportion. The longer completion decides."""
    prompt, longest = len(encoded.prompt), max(map(len, encoded.completions))
    if prompt + longest <= limit:
        return encoded
    if 2 * longest < limit:
        room = longest
    elif 2 * prompt < limit:
        room = limit - prompt
    else:
        room = limit * longest // (prompt + longest)
    kept = encoded.prompt[: limit - min(room, longest)]
    return Encoded(kept, tuple(ids[:room] for ids in encoded.completions))


# By the words of --truncation_mode; the first two are TRL's.
TRUNCATION: dict[str, Rule] = {
    "keep_start": keep_start,
    "keep_end": keep_end,
    "proportional": proportional,
}


def truncate(encoded: Encoded, limit: int | None, bos: int | None, mode: str) -> Encoded:
    """``encoded`` in at most ``limit`` tokens for the prompt and each completion.

    Raises BadRow where nothing is left of a part.
    """
    if limit is None:
        return encoded
    fitting = TRUNCATION[mode](encoded, limit, bos)
    if not all(fitting.completions) or (encoded.prompt and not fitting.prompt):
        raise BadRow(f"--max_length {limit} leaves nothing of the prompt or of a completion")
    return fitting
