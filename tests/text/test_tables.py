"""Tables under other names, through the real commands: column flags and a registry, in training and
in the evaluation that follows."""

import json

import pytest

from diffdpo.cli import run_command
from tests.text.factory import pair_rows, write_jsonl
from tests.text.runs import flags, metrics, train

NAMES = {"prompt": "ask", "chosen": "good", "rejected": "bad"}


@pytest.fixture
def table(tmp_path):
    rows = [{NAMES[name]: text for name, text in row.items()} for row in pair_rows(12)]
    return write_jsonl(tmp_path / "table.jsonl", rows)


def evaluated(out, folder):
    words = f"--policy {out} --output_dir {folder} --split train --num_prompts 2"
    words += " --samples_per_prompt 1 --max_new_tokens 4"
    assert run_command("evaluate_text", words.split()) == 0
    return json.loads((folder / "evaluation.json").read_text())["implicit_accuracy"]["n"]


def test_columns_that_flags_name_are_read_as_if_they_were_called_so(lm, data, table, tmp_path):
    out = tmp_path / "named"
    columns = {f"{role}_column": name for role, name in NAMES.items()}
    train(*flags(lm, table, out, **columns))
    train(*flags(lm, data["pairs"], tmp_path / "plain"))
    assert metrics(out) == metrics(tmp_path / "plain")
    # The evaluation finds the same columns, from the record of the run.
    assert evaluated(out, tmp_path / "report") == 12


def test_an_entry_of_a_registry_is_read_as_a_conversation(lm, table, tmp_path):
    entry = {"file_name": table.name, "ranking": True, "columns": NAMES}
    info = tmp_path / "dataset_info.json"
    info.write_text(json.dumps({"mine": entry}))
    out = tmp_path / "registered"
    train(*flags(lm, "mine", out, dataset_info=info))
    chats = [
        {"question": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}
        for row in pair_rows(12)
    ]
    train(*flags(lm, write_jsonl(tmp_path / "chats.jsonl", chats), tmp_path / "plain"))
    assert metrics(out) == metrics(tmp_path / "plain")
    assert evaluated(out, tmp_path / "report") == 12
