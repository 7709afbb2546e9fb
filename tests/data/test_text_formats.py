"""Every text format to the one schema; the split of what two texts share; broken rows and files."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from diffdpo.data.source import json_mistake, open_dataset
from diffdpo.data.text import TEXT_FORMATS, detect
from diffdpo.data.text.messages import BadRow
from diffdpo.data.text.record import Record
from diffdpo.data.text.schema import label, scores, split_common
from diffdpo.errors import UserError

SHARED = Path(__file__).parents[3] / "shared" / "data"
U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
B, S = {"role": "assistant", "content": "b"}, {"role": "system", "content": "s"}
HUMAN = "\n\nHuman: q\n\nAssistant: x\n\nHuman: more\n\nAssistant:"

TURNS = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}]
GPT = [{"from": "gpt", "value": text} for text in "ab"]
ALPACA = {"system": "s", "instruction": "q"}
ASKED = {"system": "s", "chosen": "a", "rejected": "b"}

ROWS = {
    "llama-factory pairs": {"conversations": TURNS, "chosen": GPT[0], "rejected": GPT[1]},
    "llama-factory labels": {"messages": [S, U, A], "label": True},
    "llama-factory tags": {"messages": [S, U, A], "kto_tag": 1},
    "sharegpt labels": {"conversations": [*TURNS, GPT[0]], "label": True},
    "sharegpt tags": {"conversations": [*TURNS, GPT[0]], "kto_tag": True},
    "alpaca labels": {**ALPACA, "output": "a", "label": True},
    "alpaca tags": {**ALPACA, "output": "a", "kto_tag": True},
    "system and pairs": {"system": "s", "prompt": "q", "chosen": "a", "rejected": "b"},
    "pairs": {"prompt": [S, U], "chosen": [A], "rejected": [B]},
    "labels": {"prompt": [S, U], "completion": [A], "label": 1.0},
    "messages and pairs": {"messages": [S, U], "chosen": A, "rejected": B},
    "alpaca pairs": {**ALPACA, "input": "", "chosen": "a", "rejected": "b"},
    "questions": {**ASKED, "question": "q"},
    "queries": {**ASKED, "query": "q"},
    "whole conversations": {"chosen_messages": [S, U, A], "rejected_messages": [S, U, B]},
    "transcripts": {"chosen": HUMAN + " a", "rejected": HUMAN + " b"},
    "pairs of conversations": {"chosen": [S, U, A], "rejected": [S, U, B]},
    "pairs without prompt": {"chosen": HUMAN[2:] + " a", "rejected": HUMAN[2:] + " b"},
}


def read(row):
    name, format = detect(list(row), row)
    return name, format.read(Record(row))


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_every_format_is_told_by_its_columns_and_read_to_one_schema(name):
    detected, example = read(ROWS[name])
    assert detected == name
    if name == "pairs without prompt":
        assert (example.prompt, *example.completions) == (HUMAN[2:], " a", " b")
        return
    if name == "transcripts":
        assert (example.prompt, *example.completions) == (HUMAN, " a", " b")
        return
    assert example.prompt == [S, U]
    assert example.completions[0] == [A]
    if example.desirable is None:
        assert example.completions[1] == [B]
    else:
        assert example.desirable is True


def test_plain_text_stays_plain_and_a_textual_prompt_before_messages_becomes_one():
    assert read({"prompt": "q", "chosen": "a", "rejected": "b"})[1].completions == ("a", "b")
    assert read({"prompt": "q", "chosen": [A], "rejected": [B]})[1].prompt == [U]
    whole = {
        "prompt": "q",
        "chosen": [U, A],
        "rejected": [U, B],
        "score_chosen": 8,
        "score_rejected": 5.5,
    }
    example = read(whole)[1]
    assert (example.prompt, example.completions, example.scores) == ([U], ([A], [B]), (8.0, 5.5))
    assert read({"system": "", "prompt": "q", "chosen": "a", "rejected": "b"})[1].prompt == [U]


def test_tools_and_template_options_come_along():
    tool = {"type": "function", "function": {"name": "f"}}
    row = {"prompt": [U], "chosen": [A], "rejected": [B], "tools": json.dumps([tool])}
    example = read({**row, "chat_template_kwargs": {"mood": "glad", "other": None}})[1]
    assert example.tools == [tool]
    assert example.template_options == {"mood": "glad"}
    assert read({**row, "tools": []})[1].tools is None
    called = {"role": "assistant", "content": "", "tool_calls": [tool]}
    assert read({"prompt": [U], "chosen": [called], "rejected": [B]})[1].completions[0] == [called]


SPLITS = {
    "as usual": ("The sky is blue.", "The sky is green.", "The sky is"),
    "never inside a word": ("I like green tea", "I like great tea", "I like"),
    # Each side keeps words of its own, or one would be an empty completion.
    "one begins the other": ("The sky is blue", "The sky is blue and vast", "The sky is"),
    "nothing shared": ("yes ", "no", ""),
    "one word": ("yes", "yes sir", ""),
    "line breaks stay whole": ("Q: x\n\nA", "Q: x\n\nB", "Q: x"),
    "trailing space": ("one two ", "one two", "one"),
}


@pytest.mark.parametrize(("chosen", "rejected", "prompt"), SPLITS.values(), ids=SPLITS)
def test_what_two_texts_share_is_the_prompt(chosen, rejected, prompt):
    # Either way round, for which of the two is the chosen one must not move the boundary.
    for a, b in ((chosen, rejected), (rejected, chosen)):
        shared, first, second = split_common(a, b)
        assert shared == prompt
        assert (shared + first, shared + second) == (a, b)
        assert first
        assert second


def test_what_two_conversations_share_is_the_prompt():
    assert split_common([U, A], [U, B]) == ([U], [A], [B])
    assert split_common([U, A], [U, A, U, B]) == ([U], [A], [A, U, B])
    assert split_common([U, A, U, A], [U, A, U, B]) == ([U, A, U], [A], [B])


BAD = {
    "same": ({"prompt": "q", "chosen": "a", "rejected": "a"}, "the same"),
    "same whole": ({"chosen": "a b", "rejected": "a b"}, "the same"),
    "empty": ({"prompt": "q", "chosen": "", "rejected": "b"}, "chosen is empty"),
    "empty whole": ({"chosen": "a", "rejected": ""}, "rejected is empty"),
    "empty message": (
        {"prompt": [U], "chosen": [{**A, "content": ""}], "rejected": [B]},
        "chosen is empty",
    ),
    "no messages": ({"prompt": [], "chosen": [A], "rejected": [B]}, "prompt has no messages"),
    "missing": ({"prompt": "q", "chosen": None, "rejected": "b"}, "chosen is missing"),
    "mixed": ({"prompt": [U], "chosen": "a", "rejected": [B]}, "mix text and messages"),
    "label": ({"prompt": "q", "completion": "a", "label": 0.5}, "neither true/false nor 1/0"),
    "label text": (
        {"prompt": "q", "completion": "a", "label": "yes"},
        "neither true/false nor 1/0",
    ),
    "role": (
        {"prompt": [{"role": "bot", "content": "q"}], "chosen": [A], "rejected": [B]},
        "role 'bot' is unknown",
    ),
    "user answers": ({"prompt": [U, A], "chosen": [U], "rejected": [B]}, "begins with role 'user'"),
    "lone message": ({"messages": [A], "label": True}, "needs a prompt and a completion"),
    "prompt only": ({"messages": [U, A, U], "label": True}, "begins with role 'user'"),
    "tools": ({"prompt": [U], "chosen": [A], "rejected": [B], "tools": "{"}, "tools is not JSON"),
    "nothing shared": ({"chosen": [U, A], "rejected": [S, B]}, "share no first message"),
    "transcripts": (
        {"chosen": HUMAN + " a", "rejected": "\n\nHuman: z\n\nAssistant: b"},
        "differ before",
    ),
}


@pytest.mark.parametrize(("row", "reason"), BAD.values(), ids=BAD)
def test_rows_that_cannot_be_used_say_why(row, reason):
    with pytest.raises(BadRow, match=reason):
        read(row)


def test_labels():
    assert [label(value) for value in (True, False, 1, 0, 1.0, 0.0)] == [True, False] * 3
    # Of a CSV file: one cell that is no label makes words of the others.
    assert [label(value) for value in ("True", "false", "1", "0", "1.0", "0.0")] == [
        True,
        False,
    ] * 3


@pytest.mark.parametrize("value", ["NA", "nan", "", None, "2", "0.5", "truth", [1], 10**400])
def test_what_is_no_label_is_none(value):
    with pytest.raises(BadRow, match="neither true/false nor 1/0"):
        label(value)


def test_scores_are_numbers_or_words_for_them():
    assert scores({"score_chosen": "4", "score_rejected": "3.5"}) == (4, 3.5)
    for word in ("NA", "nan", "", "inf", None, 10**400):
        assert scores({"score_chosen": 4, "score_rejected": word}) is None


def test_unknown_columns_name_what_was_found_and_what_is_needed():
    with pytest.raises(UserError, match=r"in columns chosen, score; the nearest, .*rejected"):
        detect(["chosen", "score"], {})


# Real files of another project, as its users have them.
@pytest.mark.skipif(not SHARED.exists(), reason="the shared demo files are not here")
@pytest.mark.parametrize("name", ["dpo_en_demo", "kto_en_demo"])
def test_demo_files_run_untouched(name, tmp_path):
    dataset = open_dataset(str(SHARED / f"{name}.json"), "train", cache_dir=str(tmp_path))
    _, format = detect(dataset.column_names, dataset[0])
    examples = [format.read(Record(row)) for row in dataset]
    assert len(examples) == 300
    if "kto" in name:
        assert sum(bool(example.desirable) for example in examples) == 150


def test_all_kinds_of_files(tmp_path):
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"}] * 3
    dataset = Dataset.from_list(rows)
    dataset.to_json(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    dataset.to_csv(tmp_path / "a.csv")
    dataset.to_parquet(tmp_path / "a.parquet")
    DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "saved")
    for name in ("a.jsonl", "a.json", "a.csv", "a.parquet", "saved"):
        opened = open_dataset(str(tmp_path / name), "train", cache_dir=str(tmp_path / "cache"))
        assert [read(row)[1].completions for row in opened] == [("a", "b")] * 3


BROKEN = {
    "line": ("x.jsonl", '{"chosen": "a", "rejected": "b"}\n{"chosen": "a"\n', "x.jsonl, line 2"),
    "list": ("x.json", '[\n{"chosen": "a"},\n{"chosen" "b"}]', "x.json, line 3"),
}


@pytest.mark.parametrize(("name", "text", "location"), BROKEN.values(), ids=BROKEN)
def test_broken_json_is_named_by_file_and_line(tmp_path, name, text, location):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=location):
        open_dataset(str(tmp_path / name), "train", cache_dir=str(tmp_path / "cache"))


def test_rows_of_mixed_schemas_are_read_one_by_one_or_named(tmp_path):
    """Some versions of datasets refuse such a file: then the row is named. Others read it: then the
    row is bad."""
    path = tmp_path / "x.jsonl"
    path.write_text(
        json.dumps(ROWS["pairs"]) + "\n" + json.dumps({**ROWS["pairs"], "chosen": "a"}) + "\n"
    )
    assert json_mistake(path) == f"{path}, row 2: column chosen holds str, in the rows before list"
    with pytest.raises((UserError, BadRow), match=r"row 2|mix text and messages"):
        [read(row) for row in open_dataset(str(path), "train", cache_dir=str(tmp_path / "cache"))]
