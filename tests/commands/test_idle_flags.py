"""Settings that nothing reads beside the others are told at the start; those at their default are
not, for a run's own config.yaml holds them all."""

import dataclasses

import pytest
import yaml

from diffdpo.annotate.settings import AnnotateSettings
from diffdpo.cli import COMMANDS, settings_class
from diffdpo.commands.score_settings import ScoreSettings
from diffdpo.config import as_dict, parse
from diffdpo.data.bundled import bundled
from diffdpo.flags import default_of
from diffdpo.image.bundled import FLOW_RECIPE, RECIPE
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.pair_settings import PairSettings
from diffdpo.image.settings import ImageSettings
from diffdpo.ranking.settings import RankingSettings
from diffdpo.text.settings import TextSettings

# Flags, the setting that has no effect beside them, and what gives it one.
IDLE = [
    (ImageSettings, ["--lr_power", "3"], "lr_power", ["--lr_scheduler", "polynomial"]),
    (ImageSettings, ["--lr_num_cycles", "3"], "lr_num_cycles",
     ["--lr_scheduler", "cosine_with_restarts"]),
    (ImageSettings, ["--lr_warmup_steps", "3"], "lr_warmup_steps",
     ["--lr_scheduler", "constant_with_warmup"]),
    (ImageSettings, ["--adam_beta1", "0.5", "--use_adafactor"], "adam_beta1",
     ["--use_adafactor", "false"]),
    (ImageSettings, ["--hub_model_id", "me/it"], "hub_model_id", ["--push_to_hub"]),
    (ImageSettings, ["--metric_for_best_model", "rewards/accuracies"], "metric_for_best_model",
     ["--keep_best", "--holdout", "2"]),
    (ImageSettings, ["--eval_steps", "5"], "eval_steps", ["--holdout", "2"]),
    (ImageSettings, ["--validation_prompts", "a", "b"], "validation_prompts", ["--run_validation"]),
    (ImageSettings, ["--logit_mean", "1"], "logit_mean", ["--weighting_scheme", "logit_normal"]),
    (ImageSettings, ["--mode_scale", "1"], "mode_scale", ["--weighting_scheme", "mode"]),
    (TextSettings, ["--lr_power", "3"], "lr_power", ["--lr_scheduler", "polynomial"]),
    (ScoreSettings, ["--images", ".", "--reward", "colourfulness", "--split", "test"],
     "dataset_split_name", ["--images", "", "--dataset_name", "a/b"]),
    (RankingSettings, ["--comparisons", "g.csv", "--bootstrap_samples", "9"], "bootstrap_samples",
     ["--interval", "bootstrap"]),
    (AnnotateSettings, ["a/b", "--output_dir", "o", "--num_prompts", "9"], "num_prompts", None),
]  # fmt: skip
MODEL = {
    ImageSettings: ["--pretrained_model_name_or_path", "a/b", "--dataset_name", "c/d"],
    TextSettings: ["--model_name_or_path", "a/b", "--dataset_name", "c/d"],
}


def notices(cls, words):
    return parse(cls, words)[1]


@pytest.mark.parametrize(("cls", "words", "name", "reader"), IDLE)
def test_what_has_no_effect_is_told(cls, words, name, reader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, line = [*MODEL.get(cls, []), *words], f"--{name} has no effect: "
    assert [told for told in notices(cls, words) if told.startswith(line)]
    if reader is not None:
        assert not [told for told in notices(cls, [*words, *reader]) if told.startswith(line)]


@pytest.mark.parametrize("cls", [PairSettings, EvaluateSettings])
def test_no_split_of_a_single_file_of_prompts_is_looked_for(cls, tmp_path):
    (tmp_path / "p.csv").write_text("prompt\na\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / "pytorch_lora_weights.safetensors").touch()
    words = ["--pretrained_model_name_or_path", "a/b", "--policy", str(run)]
    words += ["--prompts", str(tmp_path / "p.csv")]
    assert not notices(cls, words)
    (line,) = notices(cls, [*words, "--split", "validation"])
    assert line.startswith("--dataset_split_name has no effect: --prompts names a single file")


@pytest.mark.parametrize("name", COMMANDS)
def test_only_settings_are_named(name):
    cls = settings_class(COMMANDS[name].settings, [])
    names = {field.name for field in dataclasses.fields(cls)}
    settings = cls()
    assert set(settings.idle()) <= names
    if hasattr(cls, "use_adafactor"):
        other = dataclasses.replace(settings, use_adafactor=True)
        assert set(other.idle()) <= names


@pytest.mark.parametrize("recipe", [RECIPE, FLOW_RECIPE])
def test_recipes_and_the_settings_of_a_run_have_an_effect_throughout(recipe, tmp_path):
    words = ["--config", bundled(recipe), "--pretrained_model_name_or_path", "a/b"]
    words += ["--dataset_name", "c/d"]
    settings, told = parse(ImageSettings, words)
    assert not [line for line in told if "no effect" in line]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(as_dict(settings)))
    again, told = parse(ImageSettings, ["--config", str(tmp_path / "config.yaml")])
    home = dataclasses.replace(settings, precompute_dir=again.precompute_dir)  # ~ is written out
    assert again == home
    assert not [line for line in told if "no effect" in line]
    assert default_of(ImageSettings, "lr_power") == 1
