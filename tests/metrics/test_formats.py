"""Instructions that rules verify: what follows each and what does not, and what is refused."""

import json

import pytest

from diffdpo.metrics.formats import INSTRUCTIONS, read_instructions
from tests.conftest import ROOT

# By name: what it is told, texts that follow it, texts that do not.
CASES = {
    "words": ({"least": 2, "most": 3}, ["a b", " a\nb  c "], ["a", "a b c d", ""]),
    "characters": ({"most": 3}, ["猫猫猫", " abc "], ["abcd", "   "]),
    "paragraphs": ({"least": 2}, ["a\n\nb", "a\n \nb\n\nc"], ["a\nb", "a\n\n"]),
    "bullets": ({"least": 2, "most": 2}, ["* a\n* b", "x\n - a\n• b"], ["* a", "*a*\n*b*"]),
    "json": ({}, ['{"a": 1}', "```json\n[1]\n```", " 3 "], ["{a: 1}", 'Here: {"a": 1}', "```"]),
    "keywords": ({"words": ["cat", "two dogs"]}, ["Two dogs, a CAT."], ["cats and two dogs"]),
    "forbidden": ({"words": ["cat", "猫"]}, ["concatenate", "cats"], ["Cat!", "a 猫"]),
    "starts_with": ({"text": "Dear "}, ["dear all", " Dear"], ["My dear"]),
    "ends_with": ({"text": "Yours."}, ['"So, yours."', "yours.\n"], ["yours"]),
    "quoted": ({}, ['"a"', ' "a b"\n'], ['"', 'a "b"']),
    "no_comma": ({}, ["a b."], ["a, b", "猫、犬", "نعم، لا"]),
    "lowercase": ({}, ["a b 3", "猫"], ["a B"]),
    "uppercase": ({}, ["A B 3"], ["A b"]),
}


def test_every_instruction_has_a_case_and_a_line_in_the_docs():
    assert list(CASES) == list(INSTRUCTIONS)
    lines = (ROOT / "docs" / "evaluating.md").read_text().splitlines()
    for name, (_, told) in INSTRUCTIONS.items():
        words = ", ".join(f"`{key}`" for key in told)
        assert len([line for line in lines if line.startswith(f"| `{name}` | {words}")]) == 1


@pytest.mark.parametrize("name", CASES)
def test_a_text_follows_it_or_not(name):
    told, good, bad = CASES[name]
    (one,) = read_instructions([{"name": name, **told}])
    assert [text for text in good if not one.followed(text)] == []
    assert [text for text in bad if one.followed(text)] == []
    assert not one.followed(" \n")  # an empty answer follows nothing


def test_they_are_read_from_objects_and_from_json_with_the_nulls_of_a_table():
    rows = [{"name": "words", "least": 2, "most": None, "text": None}, {"name": "json"}]
    assert read_instructions(rows) == read_instructions(json.dumps(rows))
    assert read_instructions([]) == []


BAD = {
    "a name alone": ("words", "is text that is not JSON"),
    "an object": ({"name": "json"}, "must be a list such as"),
    "nothing": (None, "must be a list such as"),
    "unknown": ([{"name": "rhymes"}], "'rhymes' is no instruction; known: words, characters"),
    "without bounds": ([{"name": "words"}], "words: needs least or most"),
    "a bound of another": ([{"name": "json", "least": 1}], "json: least means nothing to it"),
    "half a word": ([{"name": "words", "least": 1.5}], "words: least must be a whole number"),
    "a yes": ([{"name": "words", "most": True}], "words: most must be a whole number"),
    "one word": ([{"name": "keywords", "words": "cat"}], "words must be a list of words"),
    "blank": ([{"name": "ends_with", "text": " "}], "ends_with: text must be text"),
}


@pytest.mark.parametrize(("cell", "line"), BAD.values(), ids=BAD)
def test_what_cannot_be_checked_is_refused(cell, line):
    with pytest.raises(ValueError, match=line):
        read_instructions(cell)
