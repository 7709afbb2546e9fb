"""Prompts from every kind of file that people keep them in."""

import json

import pytest
from datasets import Dataset

from diffdpo.data.prompts import read_prompts
from diffdpo.errors import UserError

PROMPTS = ["a fox", "zwei Füchse", "狐"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "a fox\r\n\n  zwei   Füchse\n狐\na fox\n"),
        ("p.tsv", "Category\tPrompt\nx\ta fox\ny\tzwei Füchse\nz\t狐\nw\n"),
        ("p.json", json.dumps(PROMPTS)),
        ("p.jsonl", "".join(json.dumps({"n": 1, "prompt": p}) + "\n" for p in [*PROMPTS, None])),
        ("q.jsonl", "".join(json.dumps(p) + "\n" for p in PROMPTS)),
        ("r.json", json.dumps([{"tag": "x", "prompt": p} for p in PROMPTS])),
        ("s.jsonl", "".join(json.dumps({"prompt": p}) + "\n" for p in [*PROMPTS, 7, ["a"]])),
        ("p.csv", "caption,n\na fox,1\nzwei Füchse,2\n狐,3\n"),
    ],
)
def test_a_file_of_any_kind_gives_its_distinct_prompts(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert read_prompts(str(tmp_path / name)) == PROMPTS


@pytest.mark.parametrize("end", ["\u2028", "\u0085", "\x0b", "\x1c"])
def test_ends_of_lines_that_are_none_to_json_are_part_of_a_prompt(tmp_path, end):
    rows = [json.dumps({"prompt": text}, ensure_ascii=False) for text in (f"a{end}fox", "b")]
    (tmp_path / "p.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    if end >= " ":  # JSON escapes the others
        assert end in (tmp_path / "p.jsonl").read_text(encoding="utf-8")
    assert read_prompts(str(tmp_path / "p.jsonl"), as_written=True) == [f"a{end}fox", "b"]


@pytest.mark.parametrize("name", ["p.csv", "test.csv", "p.txt"])
def test_a_single_file_is_read_whole_whatever_the_split(tmp_path, name):
    (tmp_path / name).write_text("prompt\na\nb\n")
    expected = ["a", "b"] if name.endswith("csv") else ["prompt", "a", "b"]
    for split in ("train", "test", "validation"):
        assert read_prompts(str(tmp_path / name), split) == expected


def test_what_is_no_text_is_counted(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": 7}\n{"prompt": null}\n')
    assert read_prompts(str(tmp_path / "p.jsonl")) == ["a"]
    shown = capsys.readouterr().out
    assert "1 empty or repeated" in shown
    assert "1 are no text (int 7); left out" in shown
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b \\ud83d"}\n')
    assert read_prompts(str(tmp_path / "p.jsonl")) == ["a"]
    assert "1 are no text (half a character in 'b \\ud83d'); left out" in capsys.readouterr().out


def test_a_data_set_gives_those_of_the_split(tmp_path):
    Dataset.from_dict({"text": PROMPTS}).to_parquet(tmp_path / "test-00000.parquet")
    assert read_prompts(str(tmp_path), "test") == PROMPTS
    with pytest.raises(UserError, match=r"has no split .train"):
        read_prompts(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("p.txt", "\n \n", "none is there"),
        ("p.tsv", "a\tb\n1\t2\n", "no column prompt, caption"),
        ("p.tsv", 'prompt\n"a cat\na dog\na "big" bird\n', "up to line 4 cannot be read"),
        ("p.tsv", f"prompt\n{'a' * 200_000}\n", "up to line 2 cannot be read"),
        ("p.json", '{"a": ', "line 1: no JSON"),
        ("p.jsonl", '{"words": "a"}\n', "there are words"),
        ("p.txt", b"\xff\xfe\xff", "cannot be read as UTF-8"),
        ("missing.txt", None, "no such file or folder"),
    ],
)
def test_what_holds_no_prompts_is_one_line(tmp_path, name, content, line):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=line):
        read_prompts(str(tmp_path / name))
