"""TRL as the oracle of tokens: what is cut and left out, and forms that it does not know."""

import pytest
from datasets import Dataset

from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens.row_reader import RowSettings
from tests.text import factory
from tests.text.test_against_trl import QUIET, ROWS, trl


@pytest.mark.parametrize("limit", [30, 36, 44])
def test_what_is_too_long_is_cut_and_left_out_as_by_trl(tmp_path, limit):
    """Pairs whose sides differ much, so that a rule that looks at both would cut the short one."""
    rows = factory.chat_rows(ROWS)
    rows[1]["chosen"][0]["content"] *= 12
    rows[2]["prompt"][0]["content"] *= 9
    config = trl.DPOConfig(output_dir=str(tmp_path), **{**QUIET, "max_length": limit})
    words = factory.tokenizer(factory.CHATML)
    trainer = trl.DPOTrainer(
        model=factory.model(),
        ref_model=factory.model(),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=words,
    )
    ours = TextRows(Dataset.from_list(rows), words, RowSettings(limit))
    assert len(ours) == len(trainer.train_dataset) < ROWS
    assert ours.tally.too_long == ROWS - len(ours)
    batch = trainer.data_collator(list(trainer.train_dataset))
    theirs = [ids[mask.bool()].tolist() for ids, mask in zip(
        batch["input_ids"], batch["attention_mask"], strict=True)]  # fmt: skip
    sides = [(item, side) for side in (0, 1) for item in ours.items]
    assert [[*item.prompt, *item.completions[side]] for item, side in sides] == theirs
    learned = batch["completion_mask"].sum(dim=1).tolist()
    assert [len(item.completions[side]) for item, side in sides] == learned


TALK = {
    "prompt": [factory.user("hi"), factory.user("there")],
    "chosen": [factory.assistant("the inn")],
    "rejected": [factory.assistant("rain")],
}

# A form that TRL does not know, and the same rows as TRL wants them.
FORMS = {
    "parts": (
        {**TALK, "chosen": [factory.assistant([{"type": "text", "text": "the inn"}])]},
        TALK,
    ),
    "openai": (
        {"messages": TALK["prompt"], "chosen": "the inn", "rejected": TALK["rejected"][0]},
        TALK,
    ),
    "alpaca": (
        {"instruction": "hi", "input": "there", "chosen": "the inn", "rejected": "rain"},
        {**TALK, "prompt": [factory.user("hi\nthere")]},
    ),
    "orca": (
        {"system": "s", "question": "hi", "chosen": "the inn", "rejected": "rain"},
        {**TALK, "prompt": [{"role": "system", "content": "s"}, factory.user("hi")]},
    ),
    "whole": (
        {f"{side}_messages": TALK["prompt"] + TALK[side] for side in ("chosen", "rejected")},
        TALK,
    ),
    "a late system message": (
        {**TALK, "prompt": [factory.user("hi"), {"role": "system", "content": "s"}]},
        {**TALK, "prompt": [factory.user("hi"), {"role": "system", "content": "s"}]},
    ),
}


@pytest.mark.parametrize(("own", "theirs"), FORMS.values(), ids=FORMS)
def test_other_forms_give_the_tokens_of_trls(tmp_path, own, theirs):
    words = factory.tokenizer(factory.CHATML)
    trainer = trl.DPOTrainer(
        model=factory.model(),
        ref_model=factory.model(),
        args=trl.DPOConfig(output_dir=str(tmp_path), **QUIET),
        train_dataset=Dataset.from_list([theirs]),
        processing_class=words,
    )
    (item,) = TextRows(Dataset.from_list([own]), words, RowSettings()).items
    (row,) = trainer.train_dataset
    assert list(item.prompt) == row["prompt_ids"]
    assert [*map(list, item.completions)] == [row["chosen_ids"], row["rejected_ids"]]
