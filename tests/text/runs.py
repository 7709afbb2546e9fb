"""Text training through the real command line, for tests."""

from __future__ import annotations

import pytest

from diffdpo.cli import run_command
from diffdpo.errors import UserError
from tests.runs import metrics as metrics
from tests.runs import words_of
from tests.text.factory import chat_rows, label_rows, pair_rows, write_jsonl


def write_data(folder):
    """Files of every kind: plain pairs, conversations, labelled completions."""
    kinds = {"pairs": pair_rows(12), "chats": chat_rows(12), "labels": label_rows(12)}
    return {name: write_jsonl(folder / f"{name}.jsonl", rows) for name, rows in kinds.items()}


def flags(model, rows, out, **changes):
    defaults = {
        "model_name_or_path": model,
        "dataset_name": rows,
        "output_dir": out,
        "max_train_steps": 4,
        "train_batch_size": 4,
        "learning_rate": 1e-3,
        "report_to": "none",
    }
    return words_of(defaults | changes)


def train(*words):
    """In this process, through the function that the script calls."""
    assert run_command("train_text_dpo", [str(word) for word in words]) == 0


def fails_with(words, line, capsys):
    assert run_command("train_text_dpo", words) == 2
    lines = [
        text
        for text in capsys.readouterr().err.splitlines()
        if text.strip() and "tokenising" not in text
    ]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert line in lines[0]


def refusals(read, text, *words):
    """The lines with which the settings in a text are refused."""
    with pytest.raises(UserError) as caught:
        read(text, *words)
    return caught.value.mistakes
