"""Settings: TRL's flags, sums of losses, and every mistake in one go."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from diffdpo.config import StrictParser, parse
from diffdpo.errors import UserError
from diffdpo.text.flags.loss_settings import text_objective
from diffdpo.text.recipes.inert import INERT
from diffdpo.text.recipes.refused import REFUSED
from diffdpo.text.settings import TextSettings

ROOT = Path(__file__).parents[2]
PARSER = StrictParser(TextSettings)
# Settings of TRL's classes, and how many of them are used, without effect, and refused; the guide
# (docs/migrating.md) has the same numbers.
CLASSES = ["DPOConfig", "KTOConfig", "CPOConfig", "ORPOConfig", "ScriptArguments", "ModelConfig"]
CLASSES += ["DatasetMixtureConfig"]


def test_every_setting_of_trl_is_used_named_as_without_effect_or_refused():
    trl = pytest.importorskip("trl")
    cpo, orpo = (pytest.importorskip(f"trl.experimental.{name}") for name in ("cpo", "orpo"))
    known = {name.lstrip("-").replace("-", "_") for name in PARSER._option_string_actions}
    guide = (ROOT / "docs" / "migrating.md").read_text()
    for name in CLASSES:
        config = next(getattr(module, name) for module in (trl, cpo, orpo) if hasattr(module, name))
        names = {field.name for field in dataclasses.fields(config)}
        without, refused = names & {*INERT}, names & {*REFUSED}
        used = names & known - without - refused
        assert names == used | without | refused, name
        row = f"| {name} | {len(names)} | {len(used)} | {len(without)} | {len(refused)} |"
        assert row in guide, row


def stated(config):
    """The value that a setting has from the start, as a file states it."""
    plain = config.default_factory if config.default is dataclasses.MISSING else None
    value = plain() if plain else config.default
    return getattr(value, "value", value)


def test_a_file_that_states_all_of_trls_defaults_asks_for_little_else(read):
    trl = pytest.importorskip("trl")
    classes = (trl.DPOConfig, trl.ScriptArguments, trl.ModelConfig)
    values = {f.name: stated(f) for one in classes for f in dataclasses.fields(one)}
    settings, _ = read(yaml.safe_dump(values))
    found = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name != "config" and getattr(settings, field.name) != stated(field)
    }
    # What has another default here, and other words for what is the default here as well.
    assert found == {
        "gradient_checkpointing": True,
        "seed": 42,
        "report_to": ["none"],
        "optim": "adamw_torch_fused",
        "tracker_name": "huggingface",
        "model_revision": "main",
        "dataloader_num_workers": 0,
    }


def test_zero_is_off_however_it_is_written():
    for word in ("0", "0.0", "0e0", "none", "false"):
        parse(TextSettings, ["--label_smoothing_factor", word])
    for word in ("0.1", "x"):
        with pytest.raises(UserError, match="believed flipped is --label_smoothing"):
            parse(TextSettings, ["--label_smoothing_factor", word])


def test_transformers_names_set_the_engines_settings():
    words = (
        "--per_device_train_batch_size 3 --max_steps -1 --lr_scheduler_type cosine --warmup_steps 7"
        " --weight_decay 1"
    )
    words += " --save_steps 9 --save_total_limit 2 --tf32 True --dataset_config_name c"
    settings, _ = parse(TextSettings, words.split())
    assert (settings.train_batch_size, settings.max_train_steps, settings.lr_scheduler) == (
        3,
        None,
        "cosine",
    )
    assert (settings.lr_warmup_steps, settings.adam_weight_decay, settings.checkpointing_steps) == (
        7,
        1.0,
        9,
    )
    assert (settings.checkpoints_total_limit, settings.allow_tf32, settings.dataset_config) == (
        2,
        True,
        "c",
    )


# After the zephyr recipe of alignment-handbook and TRL's own examples.
HANDBOOK = """
model_name_or_path: user/model
torch_dtype: null
attn_implementation: flash_attention_2
dataset_name: user/data
dataset_train_split: train_prefs
dataset_test_split: test_prefs
preprocessing_num_workers: 12
bf16: true
beta: 0.01
do_eval: true
eval_strategy: steps
eval_steps: 100
gradient_accumulation_steps: 2
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
hub_model_id: zephyr-7b-dpo
learning_rate: 5.0e-7
log_level: info
logging_steps: 10
lr_scheduler_type: cosine
max_length: 1024
max_prompt_length: 512
num_train_epochs: 1
optim: adamw_torch
output_dir: runs/zephyr
overwrite_output_dir: true
per_device_train_batch_size: 8
per_device_eval_batch_size: 8
push_to_hub: false
remove_unused_columns: false
report_to: none
run_name: zephyr
save_strategy: "steps"
save_steps: 100
save_total_limit: 1
seed: 42
trust_remote_code: false
use_peft: true
lora_r: 128
lora_alpha: 128
lora_dropout: 0.05
lora_target_modules:
  - q_proj
  - v_proj
warmup_ratio: 0.1
"""


def test_a_recipe_of_alignment_handbook_runs_as_it_is(tmp_path):
    (tmp_path / "recipe.yaml").write_text(HANDBOOK)
    settings, notices = parse(TextSettings, ["--config", str(tmp_path / "recipe.yaml")])
    assert (settings.train_batch_size, settings.eval_batch_size, settings.max_length) == (
        8,
        8,
        1024,
    )
    assert (settings.checkpointing_steps, settings.lr_scheduler, settings.seed) == (
        100,
        "cosine",
        42,
    )
    assert (settings.lora_r, settings.lora_target_modules) == (128, ["q_proj", "v_proj"])
    assert settings.precision == "bf16"
    assert settings.warmup_steps(1000) == 100
    # What changes nothing is named, with the reason; what is used is not.
    named = {notice.split(":")[0].lstrip("-") for notice in notices}
    assert {"max_prompt_length", "log_level", "lora_dropout", "torch_dtype"} <= named
    assert not named & {"optim", "warmup_ratio", "beta"}


@pytest.mark.parametrize("word", ["none", "None", "null"])
def test_no_limit_of_length(tmp_path, word):
    assert parse(TextSettings, ["--max_length", word])[0].max_length is None
    (tmp_path / "own.yaml").write_text("max_length: null\n")
    assert parse(TextSettings, ["--config", str(tmp_path / "own.yaml")])[0].max_length is None
    assert TextSettings().max_length == 1024


def test_llama_factorys_names():
    words = "--pref_beta 0.2 --pref_ftx 0.5 --pref_loss hinge --cutoff_len 99 --lora_rank 4"
    settings, _ = parse(TextSettings, ["--use_peft", *words.split()])
    assert (settings.beta, settings.rpo_alpha, settings.loss_type) == (0.2, 0.5, ["hinge"])
    assert (settings.max_length, settings.lora_r) == (99, 4)


OPTIMIZERS = {
    "adamw_torch": (False, False),
    "adamw_torch_fused": (False, False),
    "adamw_8bit": (True, False),
    "adamw_bnb_8bit": (True, False),
    "paged_adamw_32bit": (False, False),
    "paged_adamw_8bit": (True, False),
    "adafactor": (False, True),
    "rmsprop": (False, False),
}


@pytest.mark.parametrize(("name", "kinds"), OPTIMIZERS.items())
def test_transformers_names_of_optimizers(name, kinds):
    settings, _ = parse(TextSettings, ["--optim", name])
    assert (settings.eight_bit, settings.adafactor) == kinds
    assert settings.paged == name.startswith("paged")
    with pytest.raises(UserError, match="--optim 'galore_adamw' is unknown"):
        parse(TextSettings, ["--optim", "galore_adamw"])


def test_warm_up_is_a_number_of_steps_or_a_share():
    assert parse(TextSettings, ["--warmup_ratio", "0.03"])[0].warmup_steps(101) == 4  # rounded up
    assert parse(TextSettings, ["--warmup_steps", "7"])[0].warmup_steps(101) == 7
    assert TextSettings().warmup_steps(101) == 0
    with pytest.raises(UserError, match="exclude each other"):
        parse(TextSettings, ["--warmup_steps", "7", "--warmup_ratio", "0.1"])


def test_sums_of_losses():
    plain = text_objective(TextSettings())
    assert [(term.name, term.weight) for term in plain.terms] == [("sigmoid", 1.0)]
    both = text_objective(
        TextSettings(loss_type=["ipo", "sft"], loss_weights=[1, 0.5], rpo_alpha=2.0)
    )
    assert [term.name for term in both.terms] == ["ipo", "sft", "sft"]
    assert [term.weight for term in both.terms] == [1, 0.5, 2.0]
    smooth = text_objective(TextSettings(loss_type=["sigmoid", "sft"], label_smoothing=0.1))
    assert [term.options for term in smooth.terms] == [{"label_smoothing": 0.1}, {}]
    with pytest.raises(UserError, match="loss hinge has none"):
        text_objective(TextSettings(loss_type=["hinge", "sft"], label_smoothing=0.1))


def test_all_mistakes_are_named_at_once():
    words = (
        "--beta -1 --lora_r 0 --eval_strategy never --rpo_alpha -1 --bf16 --fp16"
        " --loss_type kto sft"
    )
    with pytest.raises(UserError) as caught:
        parse(TextSettings, words.split())
    assert (
        len(caught.value.mistakes) == 7
    )  # of lora_r two: its bound, and that --use_peft is missing
