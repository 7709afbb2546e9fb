"""Text data and registries of data sets that cannot be trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.case import Bad, Material

PLAIN = {"prompt": "q", "chosen": "a", "rejected": "b"}
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
OTHER = {"role": "assistant", "content": "b"}
CHAT = {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}
Row = dict[str, Any]


def flags(material: Material, model: Path, data: Path | str, *words: object) -> list[str]:
    """Text training with this model and these data."""
    out = material.folder / "run"
    base = ["--model_name_or_path", model, "--dataset_name", data, "--output_dir", out]
    return [*map(str, [*base, "--report_to", "none", "--cache_dir", material.folder, *words])]


def rows(row: Row, *words: object, count: int = 8) -> Callable[[Material], list[str]]:
    """Training on ``count`` times the same row."""
    return text("".join(json.dumps(row) + "\n" for _ in range(count)), *words)


def text(content: str | bytes, *words: object) -> Callable[[Material], list[str]]:
    """Training on a JSON-lines file of this content."""

    def make(material: Material) -> list[str]:
        file = material.folder / "data.jsonl"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return flags(material, material.lm, file, *words)

    return make


def entry(entries: object, *words: object) -> Callable[[Material], list[str]]:
    """Training on the data set ``mine`` of a registry of these entries."""

    def make(material: Material) -> list[str]:
        (material.folder / "rows.json").write_text(json.dumps([{"q": "q", "a": "a", "b": "b"}] * 4))
        file = material.folder / "dataset_info.json"
        file.write_text(entries if isinstance(entries, str) else json.dumps(entries))
        return flags(material, material.lm, "mine", "--dataset_info", file, *words)

    return make


MINE = {"file_name": "rows.json", "ranking": True}
MAPPED = {"prompt": "q", "chosen": "a", "rejected": "b"}
EVERY = r"data: 8 of 8 rows cannot be used \(row 0: "
SURROGATE = json.dumps(PLAIN).replace("a", "\\ud800")

READERS = {
    "a column that may hold the prompt": (
        rows({"context": "c", "chosen": "a", "rejected": "b"}),
        r"data: columns context hold text that would not be read; name the prompt's with --prompt",
    ),
    "nothing that both sides share": (
        rows({"chosen": "a", "rejected": "b", "id": "1"}),
        r"data: 8 of 8 rows have an empty prompt; name the prompt's column with --prompt_column",
    ),
    "no side": (rows({"prompt": "q", "chosen": "a"}), r"no preferences in columns prompt, chosen;"),
    "a system text of whole texts": (
        rows({"system": "s", "chosen": "q a", "rejected": "q b"}),
        r"data: columns system hold text that would not be read; name the prompt's with --prompt",
    ),
    "a prompt that the sides do not share": (
        rows({"prompt": "Be kind.", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}),
        EVERY + "the prompt is not in what the conversations of both sides share",
    ),
    "the prompt in the sides as well": (
        rows({"prompt": "who are you?", "chosen": "who are you? a", "rejected": "who are you? b"}),
        r"data: 8 of 8 rows have their prompt once more at the beginning of the completions",
    ),
    "words of a user under another name": (
        rows({**CHAT, "prompt": [{"role": "user", "text": "q"}]}),
        EVERY + "a message of user has no content; its fields are role, text",
    ),
    "words of nobody": (
        rows({**CHAT, "prompt": [{"speaker": "user", "content": "q"}]}),
        EVERY + "a message has no role; its fields are speaker, content",
    ),
    "a user who says nothing": (
        rows({**CHAT, "prompt": [{"role": "user", "content": ""}]}),
        r"data: 8 of 8 rows have an empty prompt",
    ),
    "messages written as text": (
        rows({**CHAT, "prompt": json.dumps([USER]), "chosen": "a", "rejected": "b"}),
        EVERY + "prompt is text that writes out messages; store them as a list",
    ),
    "messages as Python prints them": (
        rows({"prompt": "q", "chosen": str([ANSWER]), "rejected": str([OTHER])}),
        EVERY + "chosen is text that writes out messages",
    ),
    "answers that are numbers": (
        rows({"prompt": "1 + 1", "chosen": 2, "rejected": 3}),
        EVERY + r"chosen is a number \(2\), not text",
    ),
    "a history without an answer": (
        rows({"instruction": "q", "history": [["q", None]], "chosen": "a", "rejected": "b"}),
        EVERY + r"history is not a list of \[words, answer\], both text",
    ),
    "pictures": (rows({**CHAT, "images": ["1.jpg"]}), r"data: column images holds images"),
    "sound": (rows({**CHAT, "audio": "1.wav"}), r"data: column audio holds audios"),
    "a picture in the content": (
        rows({**CHAT, "prompt": [{"role": "user", "content": [{"type": "image"}]}]}),
        EVERY + "a part of the content is 'image'; only text is read",
    ),
    "content that is a number": (
        rows({**CHAT, "prompt": [{"role": "user", "content": 5}]}),
        EVERY + "content is int, not text",
    ),
    "a role of one's own": (
        rows({**CHAT, "prompt": [{"role": "x" * 5000, "content": "q"}]}),
        EVERY + r"role 'x{78}… is unknown",
    ),
    "calls without a name": (
        rows({**CHAT, "chosen": [{**ANSWER, "tool_calls": [{"function": {"arguments": "{}"}}]}]}),
        EVERY + "a tool call has no name",
    ),
    "arguments that are no JSON": (
        rows({**CHAT, "chosen": [{**ANSWER, "tool_calls": [{"name": "f", "arguments": "{"}]}]}),
        EVERY + "arguments of a tool call is not JSON",
    ),
    "a function call that is no JSON": (
        rows(
            {
                "conversations": [{"from": "function_call", "value": "{"}],
                "chosen": "a",
                "rejected": "b",
            }
        ),
        EVERY + "a function_call is not JSON",
    ),
    "tools that are a word": (rows({**CHAT, "tools": '"x"'}), EVERY + "tools is not a list"),
    "options that are a word": (
        rows({**CHAT, "chat_template_kwargs": "mood"}),
        EVERY + "chat_template_kwargs is not JSON",
    ),
    "a template in a row": (
        rows({**CHAT, "chat_template_kwargs": {"chat_template": "{{ 1 }}"}}),
        EVERY + "chat_template_kwargs sets chat_template",
    ),
    "half a character": (text((SURROGATE + "\n") * 8), r"data"),
    "bytes that are no text": (
        text(b'{"prompt": "\xff\xfe"}\n'),
        r"data: no row can be read",
    ),
    "the same after rendering": (
        rows({**CHAT, "rejected": [{**ANSWER, "mood": "other"}]}),
        EVERY + "chosen and rejected are the same as the chat template writes them",
    ),
    "the same after the cut": (
        rows(
            {"prompt": "q", "chosen": "a" * 40 + "b", "rejected": "a" * 40 + "c"},
            "--max_length",
            20,
        ),
        EVERY + "chosen and rejected are the same within --max_length 20",
    ),
    "white space alone": (rows({**PLAIN, "chosen": " \n"}), EVERY + "chosen is empty"),
    "prompts that fill the limit": (
        rows({**PLAIN, "prompt": "q" * 90}, "--max_length", 64),
        r"data: none of 8 rows is left; 8 have prompts that fill --max_length; .* 90 tokens",
    ),
    "scores that are words": (
        rows({**PLAIN, "score_chosen": "high", "score_rejected": "low"}, "--soft_label_scale", 1),
        EVERY + "score_chosen and score_rejected are not both numbers",
    ),
    "a score that is missing": (
        rows({**PLAIN, "score_chosen": 1.5, "score_rejected": None}, "--min_score_margin", 1),
        EVERY + "score_chosen and score_rejected are not both numbers",
    ),
    "a column that is not there": (
        rows(PLAIN, "--prompt_column", "promt"),
        r"--prompt_column promt: the data have no such column \(did you mean prompt",
    ),
    "columns named in two ways": (
        entry({"mine": {**MINE, "columns": MAPPED}}, "--prompt_column", "q"),
        r"--dataset_info says what columns mean; leave out --prompt_column",
    ),
}
REGISTRIES = {
    "no such entry": (entry({"mein": MINE}), r"--dataset_info .* 'mine' \(did you mean mein\?\)"),
    "a registry that is no JSON": (entry("{"), r"--dataset_info .*: cannot be read"),
    "an entry of a kind unknown": (
        entry({"mine": {**MINE, "formatting": "chatml"}}),
        r"--dataset_info .*formatting 'chatml' is unknown",
    ),
    "an entry without sides": (
        entry({"mine": {**MINE, "columns": {"prompt": "q"}}}),
        r"--dataset_info .*its columns do not name chosen, rejected",
    ),
    "an entry without preferences": (
        entry({"mine": {"file_name": "rows.json", "columns": {"prompt": "q"}}}),
        r"--dataset_info .*holds no preferences",
    ),
    "an entry of another column": (
        entry({"mine": {**MINE, "columns": {**MAPPED, "prompt": "p"}}}),
        r"--dataset_info .*the data have no column p",
    ),
    "an entry's key unknown": (
        entry({"mine": {**MINE, "columns": {**MAPPED, "promt": "q"}}}),
        r"--dataset_info .*column 'promt' is unknown",
    ),
    "an entry's file missing": (
        entry({"mine": {**MINE, "file_name": "none.json"}}),
        r"--dataset_info .*none.json is not there",
    ),
}
CASES = [
    Bad(name, "train_text_dpo", make, line)
    for table in (READERS, REGISTRIES)
    for name, (make, line) in table.items()
]
