"""Recipes of LLaMA-Factory, of both versions, read through --config as they were published."""

import json

import pytest
import yaml

from diffdpo.errors import UserError
from diffdpo.text.flags.loss_settings import text_objective
from diffdpo.text.settings import TextSettings
from tests.text import factory_recipes
from tests.text.runs import refusals


@pytest.fixture
def registry(tmp_path):
    """A folder of data as LLaMA-Factory has it."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dataset_info.json").write_text(json.dumps({"dpo_en_demo": {"file_name": "a.json"}}))
    return folder


def test_llama_factorys_recipe_with_its_own_defaults(read, registry):
    settings, notices = read(factory_recipes.DPO.replace("DATA", str(registry)))
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
    text = factory_recipes.DPO.replace("DATA", str(registry))
    settings, _ = read(text, "--lora_rank", "64", "--truncation_mode", "keep_end")
    assert (settings.lora_r, settings.lora_alpha) == (64, 128)  # twice the rank, as there
    assert settings.truncation_mode == "keep_end"
    full, notices = read(text.replace("finetuning_type: lora", "finetuning_type: full"))
    assert not full.use_peft
    assert (full.lora_r, full.lora_alpha) == (TextSettings().lora_r, TextSettings().lora_alpha)
    assert "finetuning_type full: no effect has lora_rank, lora_target_modules" in notices


def test_llama_factorys_four_bits(read, registry):
    text = factory_recipes.DPO.replace("DATA", str(registry)) + "quantization_bit: 4\n"
    settings, _ = read(f"{text}quantization_method: bnb\nquantization_type: fp4\n")
    assert settings.load_in_4bit
    assert settings.bnb_4bit_quant_type == "fp4"
    assert settings.use_bnb_nested_quant  # on there, unless it is turned off
    assert not read(f"{text}double_quantization: false\n")[0].use_bnb_nested_quant


def test_llama_factorys_kto(read, registry):
    text = factory_recipes.KTO.replace("DATA", str(registry))
    assert read(text)[0].loss_type == ["kto"]


@pytest.fixture
def v1(tmp_path, monkeypatch):
    """The folder in which a recipe of LLaMA-Factory's version 1 finds its file of data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dpo.yaml").write_text(factory_recipes.V1_DATA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_llama_factorys_version_1_with_its_own_defaults(v1, read):
    settings, notices = read(factory_recipes.V1)
    found = [(one.name, one.split) for one in settings.sources]
    assert found == [("user/pairs.jsonl", "train"), ("user/others.jsonl", "train")]
    assert settings.mixing == ("of_set", [1.0, 0.5])
    assert (settings.use_peft, settings.lora_r, settings.lora_alpha) == (True, 4, 8)
    assert settings.lora_target_modules == ["all-linear"]
    assert (settings.train_batch_size, settings.max_train_steps) == (2, 2)
    assert (settings.max_length, settings.mixed_precision) == (2048, "bf16")
    # Without a schedule of its own the rate stays, under PyTorch's AdamW.
    assert (settings.lr_scheduler, settings.adam_weight_decay) == ("constant", 0.01)
    assert settings.gradient_checkpointing
    assert any(notice.startswith("dist_config: weights in shares") for notice in notices)
    assert any(notice.startswith("--kernel_config: ") for notice in notices)
    assert read(factory_recipes.V1, "--lora_r", "16")[0].lora_r == 16
    full = factory_recipes.V1.replace("peft_config:\n  name: lora\n", "unused:\n")
    full = full[: full.index("unused:")] + full[full.index("kernel_config") :]
    assert not read(full)[0].use_peft
    four = factory_recipes.V1.replace(
        "quant_config: null", "quant_config: {name: bnb, quantization_bit: 4}"
    )
    assert read(four)[0].load_in_4bit
    one = factory_recipes.V1.replace("data/dpo.yaml", "user/pairs.jsonl")
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


@pytest.mark.parametrize("word", ["true", "false", "null"])
def test_thinking_that_is_off_is_an_argument_of_the_template(read, word):
    settings, notices = read(
        f"stage: dpo\nmodel_name_or_path: .\ndataset_name: d\nenable_thinking: {word}\n"
    )
    expected = {"enable_thinking": False} if word == "false" else None
    assert settings.chat_template_kwargs == expected
    # Its default stands in files for templates that know no thoughts.
    assert any("enable_thinking true: " in notice for notice in notices) == (word == "true")


def test_what_llama_board_saves_is_read(read, registry):
    text = factory_recipes.BOARD.replace("DATA", str(registry))
    settings, _ = read(text)
    assert (settings.loss_type, settings.rpo_alpha, settings.lora_alpha) == (["sigmoid"], 0, 16)
    assert [term.name for term in text_objective(settings).terms] == ["sigmoid"]
    kto, notices = read(text.replace("stage: dpo", "stage: kto"))
    assert kto.loss_type == ["kto"]
    assert "pref_loss sigmoid: no effect, stage kto has a loss of its own" in notices
    with pytest.raises(UserError, match="freeze_language_model: the language model is what is"):
        read(text.replace("freeze_language_model: false", "freeze_language_model: true"))
