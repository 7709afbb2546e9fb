"""Rows to items: counting and naming bad ones, cutting to length, soft labels, both sides of a pair
apart."""

import json

import pytest
from datasets import Dataset

from diffdpo.data.source import open_dataset
from diffdpo.errors import UserError
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens.row_reader import RowSettings
from tests.text.factory import CHATML, chat_rows, label_rows, pair_rows, tokenizer


def rows_of(records, **settings):
    return TextRows(Dataset.from_list(records), tokenizer(CHATML), RowSettings(**settings))


def test_a_few_bad_rows_are_counted_named_and_left_out():
    records = pair_rows(40)
    records[7]["rejected"] = records[7]["chosen"]
    records[9]["chosen"] = ""
    rows = rows_of(records)
    assert len(rows) == 38
    assert rows.tally.bad == ["row 7: chosen and rejected are the same", "row 9: chosen is empty"]
    assert {item.row for item in rows.items} == set(range(40)) - {7, 9}


def test_many_bad_rows_are_an_error():
    records = pair_rows(40)  # 3 of 40 is above the 5 % that are let pass, 2 of 40 is not
    for index in (3, 4, 5):
        records[index]["chosen"] = ""
    with pytest.raises(UserError, match=r"3 of 40 rows cannot be used \(row 3: chosen is empty\)"):
        rows_of(records)


def test_the_length_limit_keeps_prompts_and_counts_what_it_touched():
    free = rows_of(chat_rows(12))
    # Two sides of every row, cut one by one: the shorter one may be whole.
    limit = max(len(item.prompt) for item in free.items) + 8
    rows = rows_of(chat_rows(12), max_length=limit)
    over = [
        len(item.prompt) + len(side) > limit for item in free.items for side in item.completions
    ]
    assert rows.tally.completions_cut == sum(over)
    assert 0 < sum(over) < len(over)
    assert rows.tally.prompts_cut == 0
    for whole, cut in zip(free.items, rows.items, strict=True):
        assert cut.prompt == whole.prompt
        for kept, side in zip(cut.completions, whole.completions, strict=True):
            assert kept == side[: limit - len(cut.prompt)]


def test_prompts_that_lose_their_beginning_are_counted():
    rows = rows_of(chat_rows(12), max_length=40, truncation_mode="keep_end")
    assert 0 < rows.tally.prompts_cut <= 12
    assert rows.tally.completions_cut == 0


def test_rows_whose_prompt_fills_the_limit_are_left_out_and_counted():
    records = pair_rows(6)
    records[2]["prompt"] = "word " * 40
    rows = rows_of(records, max_length=60)
    assert [item.row for item in rows.items] == [0, 1, 3, 4, 5]
    assert (rows.tally.too_long, rows.tally.bad) == (1, [])
    assert "1 rows left out, whose prompt alone fills it" in rows.tally.lines(60)["length"]
    with pytest.raises(UserError, match=r"none of 6 rows is left; 6 have prompts that fill"):
        rows_of(pair_rows(6), max_length=3)


def test_sides_that_are_the_same_to_the_model_are_unusable():
    records = pair_rows(40)
    records[4] |= {"chosen": "a" * 30 + "b", "rejected": "a" * 30 + "c"}
    assert len(rows_of(records)) == 40
    assert rows_of(records, max_length=30).tally.bad == [
        "row 4: chosen and rejected are the same within --max_length 30"
    ]


def test_a_side_that_the_template_empties_is_unusable():
    records = chat_rows(40)
    records[4]["chosen"][0]["content"] = "<think>hm</think>"
    records[5]["chosen"][0]["content"] = "<think>hm</think>good"
    words = tokenizer(
        "{% for m in messages %}<|start|>"
        "{{ m.content.split('</think>') | last }}<|end|>{% endfor %}"
    )
    rows = TextRows(Dataset.from_list(records), words, RowSettings())
    assert rows.tally.bad == ["row 4: a completion is empty as the chat template writes them"]
    assert len(rows.tally.left_out) == 2
    assert (
        "writes a part of the prompts, completions or tools of 2 rows not at all"
        in (rows.tally.lines(None)["template"])
    )


def test_text_that_cannot_be_read_is_a_bad_row(tmp_path):
    lines = [json.dumps(row).encode() for row in pair_rows(40)]
    lines[0] = lines[0].replace(b"the inn", b"\xff\xfe")
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    dataset = open_dataset(str(tmp_path / "rows.jsonl"), "train", cache_dir=str(tmp_path))
    rows = TextRows(dataset, tokenizer(CHATML), RowSettings())
    assert len(rows) + len(rows.tally.bad) == 40
    assert "row 0: UnicodeDecodeError" in rows.tally.bad[0]


def test_half_a_character_in_json_of_a_row_is_a_bad_row():
    records = [{**row, "tools": "[]"} for row in chat_rows(40)]
    records[3]["tools"] = '[{"type": "function", "function": {"name": "\\ud800"}}]'
    words = tokenizer("{% if tools %}{{ tools[0].function.name }}{% endif %}" + CHATML)
    rows = TextRows(Dataset.from_list(records), words, RowSettings())
    assert [line[:6] for line in rows.tally.bad] == ["row 3:"]


def test_one_bad_row_never_stops_a_set():
    records = pair_rows(4)
    records[0]["chosen"] = ""
    assert len(rows_of(records)) == 3
    with pytest.raises(UserError, match="1 of 1 rows cannot be used"):
        rows_of(records[:1])


def test_scores_that_are_no_numbers_are_bad_rows_where_a_setting_reads_them():
    records = [{**row, "score_chosen": "four", "score_rejected": "NA"} for row in pair_rows(4)]
    assert len(rows_of(records)) == 4
    for setting in ({"soft_label_scale": 1.0}, {"min_score_margin": 0.5}):
        with pytest.raises(UserError, match="score_chosen and score_rejected are not both numbers"):
            rows_of(records, **setting)


def test_scores_that_contradict_the_sides_are_told():
    records = [
        {**row, "score_chosen": i, "score_rejected": 1} for i, row in enumerate(pair_rows(4))
    ]
    said = "1 of 4 rows have the higher score at the rejected side"
    assert rows_of(records).tally.lines(None)["scores"] == said
    swapped = [{**row, "score_chosen": 1, "score_rejected": 2} for row in pair_rows(3)]
    assert rows_of(swapped).tally.lines(None)["scores"].startswith("WARNING: 3 of 3 rows have")
    assert "scores" not in rows_of(pair_rows(3)).tally.lines(None)


def test_a_loss_on_single_items_takes_pairs_apart():
    together, apart = rows_of(pair_rows(5)), rows_of(pair_rows(5), paired=False)
    assert len(apart) == 10
    assert [item.desirable for item in apart.items] == [True, False] * 5
    for index, item in enumerate(together.items):
        assert (
            apart.items[2 * index].completions[0],
            apart.items[2 * index + 1].completions[0],
        ) == item.completions


def test_a_loss_on_pairs_refuses_single_items():
    with pytest.raises(UserError, match="single labelled items; take a loss like kto"):
        rows_of(label_rows(5))


def test_scores_as_soft_labels_and_as_a_filter():
    records = [
        {**row, "score_chosen": 4.0 + i % 2, "score_rejected": 4.0}
        for i, row in enumerate(pair_rows(6))
    ]
    assert {item.outcome for item in rows_of(records).items} == {1.0}
    soft = [item.outcome for item in rows_of(records, soft_label_scale=2.0).items]
    assert soft[:2] == pytest.approx([0.5, 0.880797], abs=1e-6)
    filtered = rows_of(records, min_score_margin=0.5)
    assert [item.row for item in filtered.items] == [1, 3, 5]
    assert filtered.tally.close == 3
    with pytest.raises(
        UserError,
        match="--min_score_margin: the data has no column score_chosen and score_rejected",
    ):
        rows_of(pair_rows(6), min_score_margin=0.5)
    with pytest.raises(UserError, match="none of 6 rows is left; 6 have too small a score margin"):
        rows_of(records, min_score_margin=9.0)


def test_the_fingerprint_follows_what_is_trained_on():
    one = rows_of(pair_rows(6))
    assert one.fingerprint == rows_of(pair_rows(6)).fingerprint
    other = pair_rows(6)
    other[3]["rejected"] += "."
    limited = rows_of(pair_rows(6))
    limited.limit(4, seed=0)
    assert len({one.fingerprint, rows_of(other).fingerprint, limited.fingerprint}) == 3
    assert len(limited) == 4


def test_the_preview_shows_every_token_and_what_is_masked():
    lines = rows_of(chat_rows(3)).preview(2)
    assert len(lines) == 6
    assert "row 0, masked" in lines[0]
    assert lines[0].endswith(r"'<|im_start|>user\nQ0: good?<|im_end|>\n<|im_start|>assistant\n'")
    assert lines[1].endswith(r"' the inn!<|im_end|>\n'")
