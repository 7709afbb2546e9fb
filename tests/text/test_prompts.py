"""Prompts that have no completions beside them."""

from datasets import Dataset

from diffdpo.text.tokens.prompts import alone, are_alone
from tests.text.factory import CHATML, tokenizer, user


def test_prompts_alone_are_told_by_their_columns():
    for columns in (["prompt"], ["id", "prompt", "source"], ["prompt", "instructions", "system"]):
        assert are_alone(columns)
    for columns in (["prompt", "chosen", "rejected"], ["prompt", "system"], ["text"], ["id"]):
        assert not are_alone(columns)


def test_every_prompt_is_asked_once():
    words = tokenizer(CHATML)
    asked = alone(Dataset.from_list([{"prompt": text, "id": 1} for text in ("a", "b", "a")]), words)
    assert [one.prompt for one in asked] == [[user("a")], [user("b")]]
    opened = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert words.decode(asked[0].tokens) == opened
    assert not asked[0].instructions
    plain = alone(Dataset.from_list([{"prompt": "a"}]), tokenizer(None))
    assert (plain[0].prompt, len(plain[0].tokens)) == ("a", 1)
