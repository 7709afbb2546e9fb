"""Recipes of other trainers, trained as they were published."""

import json
import shutil

import pytest

from diffdpo.config import read_yaml
from tests.text import factory_recipes, recipes
from tests.text.factory import chat_rows, pair_rows, write_jsonl
from tests.text.runs import flags, metrics, train

SHORT = ["--max_steps", "1", "--report_to", "none", "--eval_generations", "0"]
SHORT += ["--lora_target_modules", "all-linear", "--per_device_train_batch_size", "4"]


def published(folder, lm, names, rows):
    """A folder in which the model and the data of a recipe lie under their names on the hub."""
    for name in ("user/sft", "user/model", "user/instruct"):
        shutil.copytree(lm, folder / name)
    for name, own in zip(names, rows, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / name, own)


def whole(rows):
    """Sides as whole conversations, as UltraFeedback has them."""
    return [{side: [*row["prompt"], *row[side]] for side in ("chosen", "rejected")} for row in rows]


RECIPES = {
    "TRL": (
        recipes.TRL_MIXTURE,
        ["user/data/train.jsonl", "user/others/train_prefs.jsonl"],
        "data: 9 pairs of 9 rows (pairs, weight 0.75), 0 unusable; others: 3 pairs of 15 rows",
    ),
    "alignment-handbook": (
        recipes.SMOLLM2,
        ["user/prefs/default/train_prefs.jsonl", "user/prefs/default/test_prefs.jsonl"],
        "rows         13 pairs of 24 rows (pairs of conversations), 0 unusable",
    ),
    "LLaMA-Factory": (
        factory_recipes.SEVERAL,
        ["data/a.json", "data/b.json"],
        "dpo_a: 9 pairs of 9 rows (dpo_a of data/dataset_info.json, weight 0.5), 0 unusable",
    ),
    "version 1": (
        factory_recipes.V1,
        ["user/pairs.jsonl", "user/others.jsonl"],
        "others: 7 pairs of 15 rows (pairs of conversations, weight 0.5)",
    ),
}
SLOW = [pytest.param("version 1", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", [*list(RECIPES)[:-1], *SLOW])
def test_a_recipe_of_several_data_sets_trains_as_it_was_published(
    name, lm, tmp_path, monkeypatch, capsys
):
    text, names, said = RECIPES[name]
    rows = [chat_rows(9), chat_rows(24)[9:]]
    if name == "TRL":
        rows[0] = pair_rows(9)
    if name in ("alignment-handbook", "version 1"):
        rows = [whole(own) for own in rows]
    published(tmp_path, lm, names, rows)
    columns = {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"}
    entry = {"formatting": "openai", "ranking": True, "columns": columns}
    registry = {f"dpo_{part}": {**entry, "file_name": f"{part}.json"} for part in "ab"}
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(registry))
    (tmp_path / "data" / "dpo.yaml").write_text(factory_recipes.V1_DATA)
    (tmp_path / "recipe.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    train("--config", "recipe.yaml", *SHORT)
    shown = capsys.readouterr().out
    assert said in shown, shown


def test_a_run_with_shares_and_columns_writes_whole_numbers_of_steps(lm, data, tmp_path):
    out = tmp_path / "run"
    shares = {"save_steps": 0.5, "logging_steps": 0.25, "warmup_steps": 0.5}
    columns = ["prompt", "chosen", "rejected"]
    train(*flags(lm, data["pairs"], out, dataset_columns=columns, **shares))
    recorded = read_yaml(str(out / "config.yaml"))
    assert (recorded["checkpointing_steps"], recorded["logging_steps"]) == (2, 1)
    assert (out / "checkpoint-2").is_dir()
    rates = [line["lr"] for line in metrics(out)]
    assert rates[0] < rates[1]
    with pytest.raises(AssertionError):  # the command ends with code 2
        train(*flags(lm, data["pairs"], tmp_path / "no", dataset_columns=["chosen", "reject"]))
