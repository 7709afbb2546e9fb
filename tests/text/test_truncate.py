"""The rules of --truncation_mode: what they keep, and that each is the rule of the program that it
is named after."""

import dataclasses

import pytest

from diffdpo.data.text.messages import BadRow
from diffdpo.text.settings import TextSettings
from diffdpo.text.tokens.encode import Encoded
from diffdpo.text.tokens.truncate import TRUNCATION, PromptTooLong, truncate

FULL = Encoded([0, 7, 8, 9], ([1, 2, 3, 4, 5, 6], [4, 5]))

CASES = {
    "fits": ("keep_start", 10, [0, 7, 8, 9], [1, 2, 3, 4, 5, 6], [4, 5]),
    "the long side loses its end": ("keep_start", 7, [0, 7, 8, 9], [1, 2, 3], [4, 5]),
    "both lose their ends": ("keep_start", 5, [0, 7, 8, 9], [1], [4]),
    "down to half": ("keep_end", 6, [0, 8, 9], [1, 2, 3], [4, 5]),
    "without a BOS in little room": ("keep_end", 2, [9], [1], [4]),
    "in proportion": ("proportional", 5, [0, 7], [1, 2, 3], [4, 5]),
    "a short prompt stays whole": ("proportional", 9, [0, 7, 8, 9], [1, 2, 3, 4, 5], [4, 5]),
}


@pytest.mark.parametrize(
    ("mode", "limit", "prompt", "chosen", "rejected"), CASES.values(), ids=CASES
)
def test_what_is_kept(mode, limit, prompt, chosen, rejected):
    cut = truncate(FULL, limit, bos=0, mode=mode)
    assert cut == Encoded(prompt, (chosen, rejected))
    assert len(cut.prompt) + max(map(len, cut.completions)) <= limit


def test_a_long_prompt_loses_its_beginning_and_not_its_bos():
    full = Encoded([0, 6, 7, 8, 9], ([1, 2], [3]))
    assert truncate(full, 6, 0, "keep_end") == Encoded([0, 7, 8, 9], ([1, 2], [3]))
    assert truncate(full, 6, None, "keep_end") == Encoded([6, 7, 8, 9], ([1, 2], [3]))


def test_a_prompt_that_fills_the_limit_is_left_out_as_in_trl():
    with pytest.raises(PromptTooLong) as caught:
        truncate(FULL, 4, bos=0, mode="keep_start")
    assert caught.value.tokens == 4
    assert truncate(FULL, None, bos=0, mode="keep_start") is FULL


@pytest.mark.parametrize("mode", TRUNCATION)
@pytest.mark.parametrize("limit", range(1, 12))
def test_no_rule_leaves_an_empty_part_or_exceeds_the_limit(mode, limit):
    try:
        cut = truncate(FULL, limit, bos=0, mode=mode)
    except BadRow:
        return
    assert cut.prompt
    assert all(cut.completions)
    assert len(cut.prompt) + max(map(len, cut.completions)) <= limit


# The table in LLaMA-Factory's own tests of its rule: (prompt, completion, limit) to what is kept.
KNOWN = {
    (3000, 2000, 1000): (600, 400),
    (2000, 3000, 1000): (400, 600),
    (1000, 100, 1000): (900, 100),
    (100, 1000, 1000): (100, 900),
    (100, 500, 1000): (100, 500),
    (500, 100, 1000): (500, 100),
    (10, 10, 1000): (10, 10),
}


@pytest.mark.parametrize(("lengths", "kept"), KNOWN.items(), ids=map(str, KNOWN))
def test_the_proportional_rule_gives_llama_factorys_known_answers(lengths, kept):
    prompt, completion, limit = lengths
    full = Encoded([1] * prompt, ([2] * completion, [3]))
    cut = truncate(full, limit, None, "proportional")
    assert (len(cut.prompt), len(cut.completions[0])) == kept


def test_the_flag_knows_every_rule():
    (field,) = [f for f in dataclasses.fields(TextSettings) if f.name == "truncation_mode"]
    assert list(field.metadata["choices"]) == list(TRUNCATION)
