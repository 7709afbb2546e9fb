"""The cases of TRL's own tests of data (tests/test_data_utils.py), given to both."""

from pathlib import Path

import pytest
from datasets import Dataset

from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens.row_reader import RowSettings
from tests.text.factory import TEMPLATES, assistant, tokenizer, user

trl = pytest.importorskip("trl.data_utils")
FOLDER = Path(trl.__file__).parent / "chat_templates"
# Those for training write the same, and mark what is learned. Three write lists of
# parts alone. Versions of one template are much alike.
KNOWN = {file.stem: file for file in sorted(FOLDER.glob("*.jinja"))}
ALL = [name for name in KNOWN if not name.endswith("_training")]
ALL = [name for name in ALL if name not in ("idefics3", "smolvlm", "llava_next")]
ALL = [pytest.param(name, marks=[pytest.mark.slow] if "_v" in name else []) for name in ALL]
SKY, BLUE, GREEN = (
    user("What color is the sky?"),
    assistant("It is blue."),
    assistant("It is green."),
)
TALKS = {
    "pairs": {"prompt": [SKY], "chosen": [BLUE], "rejected": [GREEN]},
    "no prompt": {"chosen": [SKY, BLUE], "rejected": [SKY, GREEN]},
    "labels": {"prompt": [SKY], "completion": [BLUE], "label": True},
}
# As those of R1: the prompt alone ends in words that an answer need not have.
OPENED = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: <think>' }}{% endif %}"
)
TEXTS = {
    "pairs": {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    "no prompt": {"chosen": "The sky is blue.", "rejected": "The sky is green."},
    "labels": {"prompt": "The sky is", "completion": " blue.", "label": True},
}


def items_of(rows, words, **settings):
    return list(TextRows(Dataset.from_list(rows), words, RowSettings(**settings)).items)


def whole(words, item):
    """Prompt and completions of an item as text, each completion behind the prompt."""
    return [words.decode([*item.prompt, *side]) for side in item.completions]


@pytest.mark.parametrize("name", ALL)
def test_conversations_are_written_as_by_trl(name):
    words = tokenizer(KNOWN[name].read_text())
    for form, row in TALKS.items():
        paired = form != "labels"
        theirs = trl.apply_chat_template(trl.maybe_extract_prompt(dict(row)), words)
        (item,) = items_of([row], words, paired=paired)
        sides = ["chosen", "rejected"] if paired else ["completion"]
        assert whole(words, item) == [theirs["prompt"] + theirs[side] for side in sides], form
        assert words.decode(item.prompt) == theirs["prompt"], form


def test_thoughts_of_harmony_are_written_as_by_trl():
    words = tokenizer(KNOWN["gptoss"].read_text())
    system = {"role": "system", "content": "Respond in a friendly manner."}
    sides = [
        [{**answer, "thinking": f"The user asks the color of the {place}..."}]
        for answer, place in ((BLUE, "sky"), (GREEN, "tree"))
    ]
    row = {"prompt": [system, SKY], "chosen": sides[0], "rejected": sides[1]}
    options = {"reasoning_effort": "low", "model_identity": "You are HuggingGPT."}
    theirs = trl.apply_chat_template(row, words, **options)
    (item,) = items_of([row], words, chat_template_kwargs=options)
    assert words.decode(item.prompt) == theirs["prompt"]
    assert whole(words, item) == [
        theirs["prompt"] + theirs[side] for side in ("chosen", "rejected")
    ]
    assert "<|channel|>analysis<|message|>The user asks the color of the tree" in theirs["rejected"]


def test_arguments_tools_and_opened_thoughts_are_written_as_by_trl():
    words = tokenizer(KNOWN["qwen3"].read_text())
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    row = {**TALKS["pairs"], **off}
    (item,) = items_of([row], words)
    assert words.decode(item.prompt) == trl.apply_chat_template(dict(row), words)["prompt"]
    assert words.decode(item.prompt).endswith("<think>\n\n</think>\n\n")
    words = tokenizer(KNOWN["llama3_2"].read_text())
    tool = {"name": "temperature", "description": "at a place", "parameters": {"type": "object"}}
    row = {**TALKS["pairs"], "tools": [{"type": "function", "function": tool}]}
    (item,) = items_of([row], words)
    theirs = trl.apply_chat_template(dict(TALKS["pairs"]), words, tools=row["tools"])
    assert "temperature" in words.decode(item.prompt) == theirs["prompt"]
    words = tokenizer(OPENED)
    thought = assistant("<think>2+2=4</think>It is 4.")
    row = {
        "prompt": [user("What is 2+2?")],
        "chosen": [thought],
        "rejected": [assistant("It is 4.")],
    }
    (item,) = items_of([row], words)
    wholes = [row["prompt"] + row[side] for side in ("chosen", "rejected")]
    assert whole(words, item) == [words.apply_chat_template(w, tokenize=False) for w in wholes]


@pytest.mark.parametrize("row", [TEXTS["pairs"], TEXTS["no prompt"]])
def test_a_prompt_is_extracted_from_text_as_by_trl(row):
    words = tokenizer(TEMPLATES["chatml"])
    theirs = trl.maybe_extract_prompt(dict(row))
    (item,) = items_of([row], words)
    assert words.decode(item.prompt, skip_special_tokens=True) == theirs["prompt"] == "The sky is"
    ends = [words.decode(side, skip_special_tokens=True) for side in item.completions]
    assert ends == [theirs["chosen"], theirs["rejected"]] == [" blue.", " green."]


@pytest.mark.parametrize("more", [{}, {"extra": 1}])
def test_pairs_are_taken_apart_as_by_trl(more):
    words = tokenizer(TEMPLATES["chatml"])
    sun = {"prompt": "The sun is", "chosen": " in the sky.", "rejected": " in the sea."}
    rows = [{**TEXTS["pairs"], **more}, {**sun, **more}]
    theirs = trl.unpair_preference_dataset(Dataset.from_list(rows))
    for given in (rows, list(theirs)):  # that of TRL is taken apart already
        found = {
            (
                words.decode(item.prompt, skip_special_tokens=True),
                words.decode(item.completions[0], skip_special_tokens=True),
                item.desirable,
            )
            for item in items_of(given, words, paired=False)
        }
        assert found == {(row["prompt"], row["completion"], row["label"]) for row in theirs}
