"""Settings: TRL's flags, sums of losses, and every mistake in one go."""

import dataclasses

import pytest

from diffdpo.config import StrictParser, parse
from diffdpo.errors import UserError
from diffdpo.text.settings import TextSettings, text_objective

# What TRL 1.16 has and this package does not do; asking for it is an error, not a silent
# difference.
NOT_DONE = {
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "ld_alpha",
    "use_weighting",
    "discopop_tau",
    "use_dora",
}
NOT_DONE |= {
    "sync_ref_model",
    "ref_model_mixup_alpha",
    "ref_model_sync_steps",
    "activation_offloading",
    "use_rslora",
}
NOT_DONE |= {
    "model_init_kwargs",
    "load_in_4bit",
    "load_in_8bit",
    "bnb_4bit_quant_type",
}
NOT_DONE |= {
    "bnb_4bit_quant_storage",
    "use_bnb_nested_quant",
    "lora_modules_to_save",
    "lora_target_parameters",
}
NOT_DONE |= {"dataset_streaming", "ignore_bias_buffers"}


def test_trls_own_flags_are_known_or_refused():
    trl, transformers = pytest.importorskip("trl"), pytest.importorskip("transformers")
    ours = {name.lstrip("-") for name in StrictParser(TextSettings)._option_string_actions}
    inherited = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    for config in (trl.DPOConfig, trl.KTOConfig, trl.ScriptArguments, trl.ModelConfig):
        assert {field.name for field in dataclasses.fields(config)} - inherited - ours <= NOT_DONE


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
        "--beta -1 --lora_r 0 --eval_strategy never --rpo_alpha 0 --bf16 --fp16 --loss_type kto sft"
    )
    with pytest.raises(UserError) as caught:
        parse(TextSettings, words.split())
    assert len(caught.value.mistakes) == 6
