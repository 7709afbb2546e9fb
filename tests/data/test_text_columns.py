"""What a table's columns hold is read, refused or named: prompts under other names, media, padding,
parts, calls of tools."""

import json

import pytest
from datasets import Dataset

from diffdpo.data.source import open_dataset
from diffdpo.data.text import TEXT_FORMATS, detect
from diffdpo.data.text.messages import BadRow, message, without_nulls
from diffdpo.data.text.record import Record
from diffdpo.data.text.registry import registered
from diffdpo.data.text.schema import template_columns
from diffdpo.errors import UserError
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens.row_reader import RowSettings
from tests.data.test_text_formats import A, B, S, U
from tests.text.factory import CHATML, tokenizer, write_jsonl

SIDES = {"chosen": "a", "rejected": "b"}
H = [{"role": "user", "content": "before"}, {"role": "assistant", "content": "then"}]


def rows_of(records, **settings):
    return TextRows(Dataset.from_list(records), tokenizer(CHATML), RowSettings(**settings))


def prompt_of(row):
    name, format = detect(list(row), row)
    return name, format.read(Record(row)).prompt


def said(text):
    return [{"role": "user", "content": text}]


PROMPTS = {
    "orca": ({"system": "s", "question": "q", **SIDES}, [S, U]),
    "orca without system": ({"system": "", "question": "q", **SIDES}, [U]),
    "a question alone": ({"question": "q", **SIDES}, [U]),
    "alpaca": ({"instruction": "q", "input": "", **SIDES}, [U]),
    "alpaca with input": ({"instruction": "q", "input": "x", **SIDES}, said("q\nx")),
    "alpaca with a history": (
        {"instruction": "q", "history": [["before", "then"]], **SIDES},
        [*H, U],
    ),
    "openai, textual sides": ({"messages": [S, U], **SIDES}, [S, U]),
    "openai, lists of sides": ({"messages": [U], "chosen": [A], "rejected": [B]}, [U]),
    "messages and textual sides": ({"prompt": [U], **SIDES}, [U]),
    "a system column before messages": (
        {"system": "s", "prompt": [U], "chosen": [A], "rejected": [B]},
        [S, U],
    ),
    "a system column before whole conversations": (
        {"system": "s", "chosen": [U, A], "rejected": [U, B]},
        [S, U],
    ),
    "an opening of its own": (
        {"system": "t", "prompt": [S, U], "chosen": [A], "rejected": [B]},
        [S, U],
    ),
    "a system column before a label": (
        {"system": "s", "prompt": "q", "completion": "a", "label": True},
        [S, U],
    ),
    "whole conversations beside their question": (
        {"question": "q", "chosen": [U, A], "rejected": [U, B]},
        [U],
    ),
    "UltraFeedback": (
        {"prompt": "q", "chosen": [U, A], "rejected": [U, B], "messages": [U, A]},
        [U],
    ),
    "whole conversations after their prompt": (
        {"prompt": [S, U], "chosen": [S, U, A], "rejected": [S, U, B]},
        [S, U],
    ),
    "two speakers of one kind": ({"prompt": [U, U], "chosen": [A], "rejected": [B]}, [U, U]),
    "a late system message": ({"prompt": [U, S, U], "chosen": [A], "rejected": [B]}, [U, S, U]),
    "the system alone": ({"prompt": [S], "chosen": [A], "rejected": [B]}, [S]),
}


@pytest.mark.parametrize(("row", "prompt"), PROMPTS.values(), ids=PROMPTS)
def test_the_prompt_is_found_wherever_a_table_holds_it(row, prompt):
    assert prompt_of(row)[1] == prompt


@pytest.mark.parametrize("column", ["context", "input", "document", "system_prompt", "dialogue"])
def test_a_column_that_may_hold_the_prompt_is_never_passed_over(column):
    records = [{column: "" if i == 0 else f"c{i}", "chosen": "Yes a", "rejected": "Yes b"}
               for i in range(4)]  # fmt: skip
    with pytest.raises(UserError, match=f"columns {column} hold text that would not be read"):
        rows_of(records)
    rows = rows_of(records, data_format="pairs without prompt")
    assert rows.tally.unread == [column]


def test_a_question_beside_another_text_is_not_taken_for_the_whole_prompt():
    row = {"question": "q", "context": "c", "id": "1", **SIDES}
    with pytest.raises(UserError, match=r"columns context hold text .* --data_format 'questions'"):
        rows_of([row] * 3)
    assert rows_of([row] * 3, data_format="questions").tally.unread == ["context", "id"]
    # What the question says itself is no other text.
    assert rows_of([{**row, "context": "q"}] * 3).tally.format == "questions"


EMPTY = [{"role": "user", "content": " "}]


@pytest.mark.parametrize("row", [{"prompt": "", **SIDES}, {"prompt": EMPTY, **SIDES}, SIDES])
def test_rows_that_have_no_prompt_are_an_error_unless_asked_for(row):
    with pytest.raises(UserError, match="3 of 3 rows have an empty prompt"):
        rows_of([row] * 3)
    form = "pairs" if "prompt" in row else "pairs without prompt"
    assert len(rows_of([row] * 3, data_format=form)) == 3


def test_answers_alone_name_what_is_missing():
    with pytest.raises(UserError, match="answers without a prompt; name it by --prompt_column"):
        rows_of([{"conversation": [U], "chosen": [A], "rejected": [B]}] * 3)


def test_a_table_of_whole_texts_still_runs_beside_notes():
    records = [
        {"id": str(i), "source": "x", "question": "Q?", "chosen": f"Q? a{i}", "rejected": "Q? b"}
        for i in range(4)
    ]
    # The question is read, as the user's; without such a column what both share is the prompt.
    assert rows_of(records).tally.format == "questions"
    rows = rows_of([{k: v for k, v in row.items() if k != "question"} for row in records])
    assert (rows.tally.format, len(rows)) == ("pairs without prompt", 4)
    assert rows.tally.unread == ["id", "source"]


@pytest.mark.parametrize("column", ["tools", "chat_template_kwargs"])
def test_columns_of_the_chat_template_are_not_read_of_plain_text(column):
    row = {"prompt": "q", **SIDES, column: [{"name": "f"}]}
    assert rows_of([row] * 3).tally.unread == [column]


def test_few_prompts_that_are_empty_or_twice_there_are_told_and_many_refused():
    whole = "who are you, then"
    twice = {"prompt": whole, "chosen": f"{whole}: a", "rejected": f" {whole}: b"}
    records = [{"prompt": f"q{i}", **SIDES} for i in range(4)] + [{"prompt": " ", **SIDES}, twice]
    assert rows_of(records).tally.lines(None)["prompt"] == (
        "1 of 6 rows have an empty prompt; 1 of 6 rows have their prompt once more at the beginning"
        " of the completions"
    )
    with pytest.raises(UserError, match="3 of 3 rows have their prompt once more at the beginning"):
        rows_of([twice] * 3)
    assert len(rows_of([twice] * 3, data_format="pairs")) == 3
    # A single word may begin an answer by chance.
    rows_of([{"prompt": "count", "chosen": "count", "rejected": "count b"}] * 3)


def test_columns_that_no_row_read_are_named():
    row = {"prompt": [U], "chosen": [A], "rejected": [B], "note": "n", "tools": None}
    rows = rows_of([row] * 3)
    assert rows.tally.unread == ["note"]
    assert rows.tally.lines(None)["not read"] == "columns note"


@pytest.mark.parametrize("column", ["image", "images", "video", "videos", "audio", "audios"])
def test_media_are_refused_and_an_empty_column_of_them_is_not(column):
    row = {"prompt": [U], "chosen": [A], "rejected": [B]}
    assert len(rows_of([{**row, column: None}] * 3)) == 3
    with pytest.raises(UserError, match=f"column {column} holds"):
        rows_of([{**row, column: None}] * 2 + [{**row, column: "1.jpg"}])


def test_padding_of_tables_goes_and_what_json_says_stays():
    padded = {"arguments": {"zone": "UTC", "city": None}, "list": [None, {"a": None}]}
    assert without_nulls(padded) == {"arguments": {"zone": "UTC"}, "list": [None, {}]}
    tools = template_columns([U], {"tools": json.dumps([{"default": None}])})["tools"]
    assert tools == [{"default": None}]


def test_padding_of_parquet_does_not_reach_the_template(tmp_path):
    def call(**arguments):
        function = {"name": "clock", "arguments": arguments}
        return [{"role": "assistant", "content": "", "tool_calls": [{"function": function}]}]

    records = [
        {"prompt": [U], "chosen": call(zone="UTC"), "rejected": call(zone="GMT")},
        {"prompt": [U], "chosen": call(city="Paris"), "rejected": call(city="Lyon")},
    ]
    Dataset.from_list(records).to_parquet(tmp_path / "calls.parquet")
    dataset = open_dataset(str(tmp_path / "calls.parquet"), "train", cache_dir=str(tmp_path))
    assert dataset[0]["chosen"][0]["tool_calls"][0]["function"]["arguments"]["city"] is None
    example = TEXT_FORMATS["pairs"].read(Record(dataset[0]))
    (made,) = example.completions[0]
    assert made["tool_calls"][0]["function"]["arguments"] == {"zone": "UTC"}


PARTS = [{"type": "text", "text": "Pa"}, {"type": "text", "value": "ris"}, "!"]


def test_parts_of_text_are_joined_and_others_refused():
    assert message({"role": "user", "content": PARTS})["content"] == "Paris!"
    for part in ({"type": "image", "url": "x"}, {"type": "text"}, 5):
        with pytest.raises(BadRow, match="a part of the content"):
            message({"role": "user", "content": [part]})
    with pytest.raises(BadRow, match="content is dict, not text"):
        message({"role": "user", "content": {"type": "text", "text": "x"}})


@pytest.mark.parametrize(
    "written",
    [{"x": 1}, '{"x": 1}', '{"x":1}'],
)
def test_arguments_of_calls_are_objects_however_they_were_written(written):
    expected = [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    for call in (
        {"function": {"name": "f", "arguments": written}},
        {"type": "function", "function": {"name": "f", "arguments": written}},
        {"name": "f", "arguments": written},
    ):
        made = message({"role": "assistant", "content": None, "tool_calls": [call]})
        assert made == {"role": "assistant", "content": None, "tool_calls": expected}
    older = {"role": "assistant", "content": None, "function_call": call}
    assert message(older)["tool_calls"] == expected
    assert message({"role": "function", "name": "f", "content": "1"})["role"] == "tool"
    turn = {"from": "function_call", "value": json.dumps({"name": "f", "arguments": written})}
    assert message(turn)["tool_calls"] == expected


def test_a_function_alone_becomes_a_tool():
    function = {"name": "f", "parameters": {"type": "object"}}
    expected = [{"type": "function", "function": function}]
    assert template_columns([U], {"tools": json.dumps([function])})["tools"] == expected
    assert template_columns([U], {"tools": expected})["tools"] == expected


def registry(folder, name="mine", **entry):
    file = folder / "dataset_info.json"
    file.write_text(json.dumps({name: {"file_name": "rows.jsonl", **entry}}))
    return registered(str(file), name)


def test_a_registry_names_columns_and_its_file_lies_beside_it(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"ask": "q"}])
    columns = {"prompt": "ask", "chosen": "good", "rejected": "bad", "system": "sys"}
    entry = registry(tmp_path, ranking=True, columns=columns)
    assert entry.source == str(tmp_path / "rows.jsonl")
    row = Record({"ask": "q", "input": "x", "good": "a", "bad": "b", "sys": "s", "note": "n"})
    example = entry.format.read(row)
    # A column that the entry leaves out is not read, as in LLaMA-Factory, though it is called so.
    assert (example.prompt, example.completions) == ([S, U], ([A], [B]))
    assert row.seen == {"ask", "good", "bad", "sys"}


def test_a_registry_names_roles(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"ask": "q"}])
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "bot"}
    columns = {"messages": "talk", "kto_tag": "fine"}
    entry = registry(tmp_path, formatting="sharegpt", columns=columns, tags=tags)
    talk = [{"who": "me", "says": "q"}, {"who": "bot", "says": "a"}]
    example = entry.format.read(Record({"talk": talk, "fine": False}))
    assert (example.prompt, example.completions, example.desirable) == ([U], ([A],), False)
    openai = registry(
        tmp_path,
        formatting="openai",
        ranking=True,
        columns={"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
    )
    example = openai.format.read(Record({"messages": [S, U], "chosen": A, "rejected": B}))
    assert (example.prompt, example.completions) == ([S, U], ([A], [B]))


def test_media_of_a_registry_are_refused_under_any_name(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"ask": "q"}])
    columns = {"prompt": "ask", "chosen": "good", "rejected": "bad", "images": "shots"}
    entry = registry(tmp_path, ranking=True, columns=columns)
    with pytest.raises(UserError, match="column images holds images"):
        entry.format.read(Record({"ask": "q", "good": "a", "bad": "b", "shots": ["1.jpg"]}))
