"""What train_text_dpo refuses, each in one line."""

from pathlib import Path

import pytest
from datasets import Dataset

from tests.text.factory import label_rows, pair_rows, save_model, write_jsonl
from tests.text.runs import fails_with, flags

# What newcomers do wrong: one line each on stderr, exit code 2, no traceback.
MISTAKES = {
    "no model": ({"model_name_or_path": "/no/such/model"}, "cannot be loaded"),
    "no data": ({"dataset_name": "/no/such/data"}, "no such file or folder"),
    "unknown loss": ({"loss_type": "sigmod"}, "unknown"),
    "weights": ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1]}, "1 weights for 2 losses"),
    "mixed kinds": ({"loss_type": ["kto", "sft"]}, "kto judges single items"),
    "smoothing": ({"loss_type": "hinge", "label_smoothing": 0.1}, "these have: sigmoid"),
    "beta": ({"beta": 0}, "--beta must be above 0"),
    "batch": ({"train_batch_size": 0}, "--train_batch_size must be at least 1"),
    "kto alone": ({"loss_type": "kto", "train_batch_size": 1}, "take 2 rows or more per step"),
    "length": ({"max_length": 2}, "12 have prompts that fill --max_length"),
    "layers": ({"use_peft": True, "lora_target_modules": "to_q"}, "--lora_target_modules to_q"),
    "typo": ({"model_name": "x"}, "did you mean --model_name_or_path?"),
}


@pytest.mark.parametrize(("changes", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(lm, data, tmp_path, capsys, changes, line):
    fails_with(flags(lm, data["pairs"], tmp_path / "run", **changes), line, capsys)


def test_data_mistakes(lm, data, tmp_path, capsys):
    def refused(rows, line, model=lm, **changes):
        path = (
            rows
            if isinstance(rows, Path)
            else write_jsonl(tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl", rows)
        )
        fails_with(flags(model, path, tmp_path / "run", **changes), line, capsys)

    refused(
        [{"text": "a", "score": 1}],
        "no preferences in columns text, score; the nearest, llama-factory pairs, lacks",
    )
    refused(
        [{**row, "label": 0.5} for row in label_rows(4)],
        "label 0.5 is neither true/false nor 1/0",
        loss_type="kto",
    )
    refused(
        [{**row, "chosen": ""} for row in pair_rows(4)],
        "4 of 4 rows cannot be used (row 0: chosen is empty)",
    )
    refused(data["chats"], "no chat template", model=save_model(tmp_path / "plain", template=None))
    refused(data["labels"], "take a loss like kto")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"chosen": "a", "rejected": "b"}\n{"chosen": \n')
    refused(broken, "broken.jsonl, line 2")
    Dataset.from_list(pair_rows(4)).save_to_disk(tmp_path / "saved")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "no .parquet, .json")
