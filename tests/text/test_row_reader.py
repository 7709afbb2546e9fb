"""One record to tokens or the reason for none: the same alone, in a batch, in another process."""

import json
import pickle

import pytest

from diffdpo.data.text import TEXT_FORMATS
from diffdpo.data.text.registry import registered
from diffdpo.errors import UserError
from diffdpo.text.tokens.row_reader import RowReader, RowSettings

from ..data.test_text_formats import ROWS
from .factory import CHATML, chat_rows, label_rows, pair_rows, tokenizer

BROKEN = {"prompt": "Q", "chosen": " half a \ud800", "rejected": " no"}
LONG = {"prompt": "word " * 40, "chosen": " a", "rejected": " b"}
OPENED = {"prompt": "<|bos|>Q", "chosen": " a", "rejected": " b"}


def numbered(records):
    return list(enumerate(records))


@pytest.mark.parametrize("bos", [False, True])
def test_texts_together_have_the_tokens_that_each_has_alone(bos):
    words, records = tokenizer(bos=bos), [*pair_rows(9), OPENED]
    results = RowReader(words, RowSettings(), "pairs").read_all(numbered(records))
    for record, result in zip(records, results, strict=True):
        prompt, *completions = (result.encoded.prompt, *result.encoded.completions)
        for name, ids in zip(("chosen", "rejected"), completions, strict=True):
            text = record["prompt"] + record[name]
            special = not text.startswith("<|bos|>")
            alone = words(text, add_special_tokens=special)["input_ids"]
            assert [*prompt, *ids] == [*alone, words.eos_token_id]


def test_a_text_that_the_tokenizer_does_not_take_spoils_no_other():
    records = [*pair_rows(3), BROKEN, LONG, *pair_rows(2)]
    reader = RowReader(tokenizer(), RowSettings(60), "pairs")
    together = reader.read_all(numbered(records))
    assert together == [reader.read(row, record) for row, record in numbered(records)]
    assert [result.row for result in together if result.encoded is None] == [3, 4]
    assert together[3].bad
    assert (together[4].bad, together[4].too_long) == (
        None,
        len(tokenizer()(LONG["prompt"])["input_ids"]),
    )


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_a_reader_of_every_format_can_be_sent_to_another_process(name):
    reader = RowReader(tokenizer(CHATML), RowSettings(), name)
    sent = pickle.loads(pickle.dumps(reader))
    assert sent.read(0, ROWS[name]) == reader.read(0, ROWS[name])
    assert reader.read(0, ROWS[name]).encoded


@pytest.mark.parametrize("ranking", [False, True])
def test_so_can_one_of_an_entry_of_a_registry(tmp_path, ranking):
    turns = [{"who": "human", "says": "q"}, {"who": "gpt", "says": "a"}]
    sides = [{"who": "gpt", "says": word} for word in "ab"]
    row = {"talk": turns[: 1 if ranking else 2]}
    row |= {"good": sides[0], "bad": sides[1]} if ranking else {"tag": True}
    columns = {"messages": "talk"}
    columns |= {"chosen": "good", "rejected": "bad"} if ranking else {"kto_tag": "tag"}
    tags = {"role_tag": "who", "content_tag": "says"}
    entry = {"file_name": "rows.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
    (tmp_path / "info.json").write_text(json.dumps({"mine": {**entry, "ranking": ranking}}))
    (tmp_path / "rows.json").write_text("[]")
    found = registered(str(tmp_path / "info.json"), "mine").format
    reader = RowReader(tokenizer(CHATML), RowSettings(registered=("mine", found)), "mine")
    assert pickle.loads(pickle.dumps(reader)).read(0, row) == reader.read(0, row)
    assert reader.read(0, row).encoded


def test_a_mistake_of_the_whole_set_ends_the_batch():
    records = [*chat_rows(2), {**chat_rows(1)[0], "image": "cat.png"}]
    with pytest.raises(UserError, match="column image holds images"):
        RowReader(tokenizer(CHATML), RowSettings(), "pairs").read_all(numbered(records))


def test_a_loss_on_single_items_gets_two_items_of_a_pair_and_one_of_a_label():
    reader = RowReader(tokenizer(), RowSettings(), "pairs")
    pair = reader.read(7, pair_rows(1)[0])
    (whole,), apart = pair.items(paired=True), pair.items(paired=False)
    assert whole.completions == tuple(item.completions[0] for item in apart)
    assert [(item.row, item.desirable) for item in apart] == [(7, True), (7, False)]
    label = RowReader(tokenizer(), RowSettings(), "labels").read(7, label_rows(1)[0])
    assert [item.desirable for item in label.items(paired=True)] == [False]
    assert label.items(paired=True) == label.items(paired=False)
