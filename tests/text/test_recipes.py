"""Recipes of other trainers, read through --config as they were published."""

import json
import shutil
from dataclasses import fields, replace

import pytest
import yaml

from diffdpo.config import parse, read_yaml
from diffdpo.errors import UserError
from diffdpo.text.flags.sources import Source
from diffdpo.text.flags.train_settings import with_whole_steps
from diffdpo.text.recipes.foreign import FOREIGN, translate
from diffdpo.text.recipes.inert import INERT
from diffdpo.text.recipes.refused import REFUSED
from diffdpo.text.settings import TextSettings
from tests.text import recipes
from tests.text.factory import chat_rows, pair_rows, write_jsonl
from tests.text.runs import flags, metrics, train

PREFS = Source("user/data", "train_prefs", "default", ["chosen", "rejected"])


@pytest.fixture
def read(tmp_path):
    """Reads a text as --config, with these flags beside it."""

    def read(text, *words):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return parse(TextSettings, ["--config", str(path), *words])

    return read


def refusals(read, text, *words):
    with pytest.raises(UserError) as caught:
        read(text, *words)
    return caught.value.mistakes


@pytest.fixture
def registry(tmp_path):
    """A folder of data as LLaMA-Factory has it."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dataset_info.json").write_text(json.dumps({"dpo_en_demo": {"file_name": "a.json"}}))
    return folder


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


def test_llama_factorys_recipe_with_its_own_defaults(read, registry):
    settings, notices = read(recipes.FACTORY_DPO.replace("DATA", str(registry)))
    assert settings.dataset_info == str(registry / "dataset_info.json")
    assert (settings.dataset_name, settings.max_train_samples) == (["dpo_en_demo"], 1000)
    assert (settings.use_peft, settings.lora_r, settings.lora_alpha) == (True, 8, 16)
    assert settings.lora_target_modules == ["all-linear"]
    assert (settings.loss_type, settings.beta) == (["hinge"], 0.2)
    assert (settings.max_length, settings.truncation_mode) == (2048, "proportional")
    assert settings.gradient_checkpointing
    assert "template llama3: prompts are written by the model's own chat template" in str(notices)
    (line,) = [notice for notice in notices if notice.startswith("defaults of LLaMA-Factory:")]
    for part in ("lora_alpha 16", "truncation_mode proportional", "gradient_checkpointing True"):
        assert part in line
    assert "learning_rate" not in line  # the recipe gives it


def test_flags_hold_before_a_recipe_and_its_programs_defaults(read, registry):
    text = recipes.FACTORY_DPO.replace("DATA", str(registry))
    settings, _ = read(text, "--lora_rank", "64", "--truncation_mode", "keep_end")
    assert (settings.lora_r, settings.lora_alpha) == (64, 128)  # twice the rank, as there
    assert settings.truncation_mode == "keep_end"
    full, notices = read(text.replace("finetuning_type: lora", "finetuning_type: full"))
    assert not full.use_peft
    assert (full.lora_r, full.lora_alpha) == (TextSettings().lora_r, TextSettings().lora_alpha)
    assert "finetuning_type full: no effect has lora_rank, lora_target_modules" in notices


def test_llama_factorys_four_bits(read, registry):
    text = recipes.FACTORY_DPO.replace("DATA", str(registry)) + "quantization_bit: 4\n"
    settings, _ = read(f"{text}quantization_method: bnb\nquantization_type: fp4\n")
    assert settings.load_in_4bit
    assert settings.bnb_4bit_quant_type == "fp4"
    assert settings.use_bnb_nested_quant  # on there, unless it is turned off
    assert not read(f"{text}double_quantization: false\n")[0].use_bnb_nested_quant


def test_llama_factorys_kto(read, registry):
    text = recipes.FACTORY_KTO.replace("DATA", str(registry))
    assert read(text)[0].loss_type == ["kto"]
    (line,) = refusals(read, f"{text}pref_loss: sigmoid\n")
    assert "pref_loss: stage kto has a loss of its own" in line


@pytest.fixture
def v1(tmp_path, monkeypatch):
    """The folder in which a recipe of LLaMA-Factory's version 1 finds its file of data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dpo.yaml").write_text(recipes.FACTORY_V1_DATA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_llama_factorys_version_1_with_its_own_defaults(v1, read):
    settings, notices = read(recipes.FACTORY_V1)
    found = [(one.name, one.split) for one in settings.sources]
    assert found == [("user/pairs.jsonl", "train"), ("user/others.jsonl", "train")]
    assert settings.mixing == ("of_set", [1.0, 0.5])
    assert (settings.use_peft, settings.lora_r, settings.lora_alpha) == (True, 4, 8)
    assert settings.lora_target_modules == ["all-linear"]
    assert (settings.train_batch_size, settings.max_train_steps) == (2, 2)
    assert (settings.max_length, settings.mixed_precision) == (2048, "bf16")
    assert settings.gradient_checkpointing
    assert any(notice.startswith("dist_config: weights in shares") for notice in notices)
    assert any(notice.startswith("--kernel_config: ") for notice in notices)
    assert read(recipes.FACTORY_V1, "--lora_r", "16")[0].lora_r == 16
    full = recipes.FACTORY_V1.replace("peft_config:\n  name: lora\n", "unused:\n")
    full = full[: full.index("unused:")] + full[full.index("kernel_config") :]
    assert not read(full)[0].use_peft
    four = recipes.FACTORY_V1.replace(
        "quant_config: null", "quant_config: {name: bnb, quantization_bit: 4}"
    )
    assert read(four)[0].load_in_4bit
    one = recipes.FACTORY_V1.replace("data/dpo.yaml", "user/pairs.jsonl")
    assert read(one + "batching_strategy: padding_free\n")[0].dataset_name == ["user/pairs.jsonl"]


V1_MISFITS = {
    "peft_config: {name: freeze}": "peft_config: freeze does not exist here; known: lora",
    "peft_config: {r: 4}": "peft_config is a group of settings, with the name of its kind",
    "peft_config: {name: lora, rank: 4}": "peft_config: rank is unknown; known: r, lora_alpha",
    "dist_config: {name: deepspeed}": "dist_config: deepspeed does not exist here; known: fsdp2",
    "dist_config: {name: fsdp2, dcp_path: a}": "dcp_path: weights are those of the model",
    "quant_config: {name: hqq}": "quant_config: hqq does not exist here; known: bnb, auto",
    "model_class: cls": "model_class cls does not exist here; known: llm",
    "batching_strategy: dynamic_batching": "does not exist here; known: normal, padding_free",
    "cp_size: 2": "cp_size 2 does not exist here; known: 1",
    "global_batch_size: 8": "global_batch_size: rows of a step are per_device_train_batch_size",
    "optim_config: {name: muon}": "optim_config: AdamW, its 8-bit and paged forms",
    "model_name_or_path: b": "model and model_name_or_path say two things",
    "train_dataset: gone.yaml": "train_dataset gone.yaml: no such file",
    "train_dataset: sft.yaml": "converter alpaca reads no preferences; known: pair",
    "train_dataset: sized.yaml": "size draws rows anew; write weight",
    "train_dataset: odd.yaml": "train_dataset: a: shuffle is unknown; known: path, split, weight",
    "train_dataset: bare.yaml": "train_dataset: a has no path",
}
V1_FILES = {
    "sft": "a: {path: b, converter: alpaca}",
    "sized": "a: {path: b, size: 5}",
    "odd": "a: {path: b, shuffle: true}",
    "bare": "a: b",
}


@pytest.mark.parametrize(("text", "line"), V1_MISFITS.items())
def test_what_version_1_has_and_this_has_not_is_a_line(v1, read, text, line):
    for name, content in V1_FILES.items():
        (v1 / f"{name}.yaml").write_text(content)
    given = yaml.safe_load(text)
    recipe = {"model": "a", "train_dataset": "user/pairs.jsonl", **given}
    assert any(line in shown for shown in refusals(read, yaml.safe_dump(recipe)))


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


@pytest.mark.parametrize("name", recipes.FACTORY_KEYS)
def test_every_name_of_llama_factorys_recipes_is_known_in_one_place(name):
    assert len(place_of(name)) == 1


def test_no_name_stands_in_two_tables():
    names = {*INERT, *REFUSED, *FOREIGN}
    assert not [name for name in names if len(place_of(name)) != 1]


def test_own_files_stay_as_they_are():
    content = {"dataset_name": "a", "lora_r": 4, "cutoff_len": 7, "fsdp": ""}
    assert translate(content).content == content
    assert not translate(content).mistakes
    assert translate(content).beneath is None


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
        recipes.FACTORY_SEVERAL,
        ["data/a.json", "data/b.json"],
        "dpo_a: 9 pairs of 9 rows (dpo_a of data/dataset_info.json, weight 0.5), 0 unusable",
    ),
    "version 1": (
        recipes.FACTORY_V1,
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
    (tmp_path / "data" / "dpo.yaml").write_text(recipes.FACTORY_V1_DATA)
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


@pytest.mark.parametrize(("word", "value"), [("true", True), ("false", False), ("null", None)])
def test_thinking_is_an_argument_of_the_template(tmp_path, word, value):
    text = f"stage: dpo\nmodel_name_or_path: .\ndataset_name: d\nenable_thinking: {word}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    settings, _ = parse(TextSettings, ["--config", str(tmp_path / "recipe.yaml")])
    expected = None if value is None else {"enable_thinking": value}
    assert settings.chat_template_kwargs == expected
