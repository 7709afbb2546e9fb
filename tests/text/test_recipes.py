"""Recipes of TRL and alignment-handbook, read through --config as they were published."""

from dataclasses import fields, replace

import pytest

from diffdpo.config import parse
from diffdpo.errors import UserError
from diffdpo.text.flags.sources import Source
from diffdpo.text.flags.train_settings import with_whole_steps
from diffdpo.text.recipes.foreign import FOREIGN, translate
from diffdpo.text.recipes.inert import INERT
from diffdpo.text.recipes.refused import REFUSED
from diffdpo.text.settings import TextSettings
from tests.text import factory_recipes, recipes
from tests.text.runs import refusals

PREFS = Source("user/data", "train_prefs", "default", ["chosen", "rejected"])


def test_trls_list_of_data_sets(read):
    settings, _ = read(recipes.TRL_CLI)
    assert settings.sources == [PREFS]
    plain = settings.in_plain_flags()
    assert (plain.dataset_name, plain.dataset_config) == (["user/data"], "default")
    assert (plain.datasets, plain.sources) == ([], [PREFS])
    assert not settings.is_mixed


def test_zephyrs_recipe(read):
    settings, notices = read(recipes.ZEPHYR)
    assert settings.sources == [replace(PREFS, name="user/prefs")]
    assert not settings.is_mixed
    assert settings.report_to == ["tensorboard", "wandb"]
    assert settings.hub_private_repo
    assert settings.warmup_steps(1000) == 100
    named = {notice.split(":")[0].lstrip("-") for notice in notices}
    assert named == {
        *("torch_dtype", "do_eval", "gradient_checkpointing_kwargs", "log_level"),
        *("max_prompt_length", "save_strategy", "dataset_mixture"),
        *("hub_model_id has no effect", "hub_private_repo has no effect"),  # nothing is uploaded
    }


def test_a_recipe_with_a_quantised_base(read):
    settings, _ = read(recipes.QLORA)
    assert settings.base_bits == "nf4"
    assert settings.sources == [Source("user/prefs", "train_prefs")]
    assert settings.held_out_sources == [Source("user/prefs", "test_prefs")]
    assert settings.load_in_4bit
    assert settings.paged
    assert not settings.eight_bit


def test_shares_of_all_steps(read):
    settings, _ = read(recipes.SMOLLM, "--logging_steps", "0.01", "--eval_steps", "0.2")
    assert settings.warmup_steps(101) == 11  # rounded up, as in transformers
    whole = with_whole_steps(settings, 101)
    assert (whole.checkpointing_steps, whole.logging_steps, whole.eval_steps) == (51, 2, 21)
    kept = with_whole_steps(read("save_steps: 7.0\neval_steps: 9\n")[0], 1000)
    assert (kept.checkpointing_steps, kept.logging_steps, kept.eval_steps) == (7, 10, 9)
    assert settings.schedule_options == {"min_lr_rate": 0.1}
    assert settings.report_to == ["wandb"]


@pytest.mark.parametrize("name", ["save_steps", "eval_steps", "logging_steps"])
@pytest.mark.parametrize("value", ["0", "-1", "2.5", "nan", "inf", "many"])
def test_what_is_neither_steps_nor_a_share(read, name, value):
    (line,) = refusals(read, "seed: 0", f"--{name}", value)
    assert "steps" in line


def test_foreign_names_are_flags_too():
    words = "--stage kto --finetuning_type lora --flash_attn fa2 --lora_target q_proj,v_proj"
    settings, _ = parse(TextSettings, words.split())
    assert (settings.loss_type, settings.use_peft) == (["kto"], True)
    full = parse(TextSettings, "--stage kto --finetuning_type full".split())[0]
    assert not full.use_peft
    assert settings.attn_implementation == "flash_attention_2"
    assert settings.lora_target_modules == ["q_proj", "v_proj"]
    words = "--disable_gradient_checkpointing false --train_sampling_strategy group_by_length"
    settings, _ = parse(TextSettings, words.split())
    assert settings.gradient_checkpointing
    assert settings.group_by_length


def test_arguments_of_a_model(read):
    text = "model_init_kwargs: {revision: v2, attn_implementation: eager, dtype: bfloat16}\n"
    settings, notices = read(text)
    assert (settings.model_revision, settings.attn_implementation) == ("v2", "eager")
    assert notices[0].startswith("--dtype: ")


def test_no_forms_of_switches():
    words = (
        "--no_gradient_checkpointing --no_remove_unused_columns --no_bf16 --sync_ref_model false"
    )
    settings, notices = parse(TextSettings, words.split())
    assert not settings.gradient_checkpointing
    assert any(notice.startswith("--remove_unused_columns: ") for notice in notices)


def test_better_is_what_the_figure_says():
    words = "--metric_for_best_model eval_rewards/accuracies --greater_is_better"
    assert parse(TextSettings, [*words.split(), "true"])[0].greater_is_better
    with pytest.raises(UserError, match="--greater_is_better false contradicts"):
        parse(TextSettings, [*words.split(), "false"])


MISFITS = {
    "stage: sft": "stage sft does not exist here; known: dpo, kto",
    "finetuning_type: oft": "finetuning_type oft does not exist here; known: lora, full",
    "dataset_dir: ONLINE": "dataset_dir ONLINE is no folder",
    "datasets: [{path: a/b, rows: 7}]": "datasets: rows is unknown; known: path",
    "datasets: [{split: train}]": "datasets: an entry has no path",
    "datasets: a/b": "datasets is not a list of entries",
    "datasets: [a/b]": "datasets is not a list of entries",
    "datasets: [{path: a/b, columns: chosen}]": "datasets: columns 'chosen' is no list of names",
    "datasets: [{path: 7}]": "datasets: path 7 is no name",
    "datasets: [{path: json, data_files: a.json}]": "datasets: data_files: write the file or",
    "datasets: [{path: a/b, fraction: 1}, {path: a/c}]": "datasets: fraction stands in 1 of 2",
    "datasets: [{path: a/b, fraction: -1}]": "datasets: fraction -1 is no number above 0",
    "datasets: [{path: a/b, fraction: 1, weight: 1}]": "has a fraction and a weight; keep one",
    "datasets: [{path: a/b}, {path: a/b}]": "datasets: a/b, split train, is named twice",
    "datasets: [{path: a/b}]\ndataset_name: a/c": "exclude each other",
    "datasets: [{path: a/b, split: s}]\ndataset_train_split: t": "has its own split; leave it out",
    "datasets: [{path: a/b, fraction: 1}]\ndataset_weights: [1]": "have their own; keep one",
    "dataset: a,b\nmix_strategy: interleave_over\nstreaming: true": "rows come again and again",
    "dataset_mixer: {a/b: 1.5}": "of_set: a weight is a share of its data set, at most 1",
    "dataset_mixture: {datasets: []}": "dataset_mixture: datasets are wanted",
    "dataset_mixture: {datasets: [{id: a}], test_split_size: 0.1}": "--eval_fraction 0.1: nothing",
    "dataset_mixture: {rows: 9}": "dataset_mixture: rows is unknown",
    "dataset_splits: [train_a, train_b]": "dataset_splits: name one split with train",
    "dataset_splits: [other]": "dataset_splits other: neither train nor test",
    "model_init_kwargs: {device_map: auto}": "model_init_kwargs: device_map is unknown",
    "dataset: [a, b]\ninterleave_probs: 0.7": "--dataset_weights: 1 weights for 2 data sets",
    "dataset: a,b\ninterleave_probs: x": "interleave_probs x: numbers are wanted",
    "dataset: a,b\ndataset_weights: [0, 0]": "--dataset_weights must be above 0, got 0",
    "dataset: a,b\ndataset_weights: [1, -1]": "--dataset_weights must be above 0, got -1",
    "dataset: a,b\nmix_strategy: concat\ndataset_weights: [1, 2]": "concat takes all rows",
    "dataset: a,b\nmix_strategy: of_mixture": "of_mixture goes by --dataset_weights; give them",
    "dataset: a\ndataset_weights: [2]": "there is one data set, which is taken whole",
    "dataset: a, a": "--dataset_name: a, split train, is named twice",
    "eval_dataset: [x=a, x=b]": "--eval_dataset_name: 2 data sets are called x; write NAME=DATA",
    "metric_for_best_model: eval_x_loss": "--metric_for_best_model 'eval_x_loss' is unknown",
    "use_peft: false\nfinetuning_type: lora": "finetuning_type and use_peft say two things",
    "val_size: 0.1": "--eval_fraction 0.1: nothing is measured",
    "deepspeed: ds.json": "deepspeed: weights in shares are FSDP2's",
    "mix_strategy: interleave": "--mix_strategy 'interleave' is unknown; known: concat",
    "report_to: [all, wandb]": "--report_to: all and none stand alone",
}


@pytest.mark.parametrize(("text", "line"), MISFITS.items())
def test_what_has_no_counterpart_is_a_line(read, text, line):
    assert any(line in shown for shown in refusals(read, text))


def place_of(name):
    """Where a name of another program is read, among settings, inert, refused and foreign ones."""
    own = {field.name for field in fields(TextSettings)}
    for field in fields(TextSettings):
        own |= {alias.lstrip("-") for alias in field.metadata.get("aliases", [])}
    tables = {"settings": own, "inert": INERT, "refused": REFUSED, "foreign": FOREIGN}
    return [table for table, names in tables.items() if name in names]


def test_every_name_of_llama_factorys_recipes_is_known_in_one_place():
    assert not [name for name in factory_recipes.KEYS if len(place_of(name)) != 1]


def test_no_name_stands_in_two_tables():
    names = {*INERT, *REFUSED, *FOREIGN}
    assert not [name for name in names if len(place_of(name)) != 1]


def test_own_files_stay_as_they_are():
    content = {"dataset_name": "a", "lora_r": 4, "cutoff_len": 7, "fsdp": ""}
    assert translate(content).content == content
    assert not translate(content).mistakes
    assert translate(content).beneath is None
