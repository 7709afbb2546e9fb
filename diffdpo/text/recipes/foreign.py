"""What recipes of TRL, alignment-handbook and LLaMA-Factory say in words of their own, as settings
of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffdpo.config import Layer, Translation
from diffdpo.errors import short
from diffdpo.text.recipes.adapter_words import (
    ADAPTERS,
    OF_PISSA,
    names_in,
    not_its_base,
    read_pissa,
)
from diffdpo.text.recipes.mixture_words import SEED, read_mixer, read_mixture, read_probabilities
from diffdpo.text.recipes.v1_words import V1, is_v1, unfolded, v1_layer
from diffdpo.words import TRUE, is_off

# A setting there, and for each of its words the settings here.
WORDS: dict[str, dict[str, dict[str, Any]]] = {
    "stage": {"dpo": {}, "kto": {"loss_type": ["kto"]}},
    "finetuning_type": {"lora": {"use_peft": True}, "full": {"use_peft": False}},
    "flash_attn": {
        "auto": {},
        "disabled": {"attn_implementation": "eager"},
        "sdpa": {"attn_implementation": "sdpa"},
        "fa2": {"attn_implementation": "flash_attention_2"},
        "eager": {"attn_implementation": "eager"},
        "flash_attention_2": {"attn_implementation": "flash_attention_2"},
    },
    "model_class": {"llm": {}},
    "batching_strategy": {"normal": {}, "padding_free": {"padding_free": True}},
    "cp_size": {"1": {}},
    "mp_replicate_size": {"1": {}},
    "disable_gradient_checkpointing": {
        "true": {"gradient_checkpointing": False},
        "false": {"gradient_checkpointing": True},
    },
    "quantization_bit": {"4": {"load_in_4bit": True}, "8": {"load_in_8bit": True}},
    "quantization_method": {"bnb": {}, "bitsandbytes": {}},
    "quantization_type": {
        "nf4": {"bnb_4bit_quant_type": "nf4"},
        "fp4": {"bnb_4bit_quant_type": "fp4"},
    },
    "double_quantization": {
        "true": {"use_bnb_nested_quant": True},
        "false": {"use_bnb_nested_quant": False},
    },
    "train_sampling_strategy": {"random": {}, "group_by_length": {"group_by_length": True}},
}
# Values that a file of TRL or LLaMA-Factory may state and that choose nothing: null of a setting
# that is null there until something is chosen, and defaults of options whose switch is off.
LEFT_OPEN: dict[str, Any] = {
    **dict.fromkeys(["output_dir", "bf16", "tf32", "eval_steps", "hub_private_repo"]),
    **dict.fromkeys(["gradient_checkpointing", "activation_checkpointing", "loss_weights"]),
    **dict.fromkeys(["metric_for_best_model", "dataset_name", "lora_target_modules"]),
    **dict.fromkeys(["lora_modules_to_save", "eval_dataset", "lora_alpha"]),
    "bnb_4bit_quant_type": "nf4",
    "ref_model_mixup_alpha": 0.6,
    "ref_model_sync_steps": 512,
    "discopop_tau": 0.05,
    "f_alpha_divergence_coef": 0.5,
}
# Arguments of ``from_pretrained`` that are settings here, under their own names.
MODEL_ARGUMENTS = ["attn_implementation", "revision", "trust_remote_code", "cache_dir"]
MODEL_ARGUMENTS += ["dtype", "torch_dtype", "use_cache", "low_cpu_mem_usage"]
ELSEWHERE = ("ONLINE", "REMOTE:")  # what LLaMA-Factory takes for a registry on a hub
OWN_TEMPLATE = (
    "template {}: prompts are written by the model's own chat template, whatever this says"
)
THINKING = "enable_thinking true: thoughts are what the template makes of them by itself"
OWN_LOSS = "pref_loss {}: no effect, stage kto has a loss of its own"
# LLaMA-Factory's defaults that are others here, with what they are called here.
FACTORY = {
    "use_peft": True,
    "max_length": 2048,
    "truncation_mode": "proportional",
    "orpo_nll_on_prompt": False,
    "learning_rate": 5e-5,
    "gradient_checkpointing": True,
    "freeze_vision_tower": True,
}
FACTORY_RANK = 8
# What a recipe of LLaMA-Factory may keep of a LoRA that is not trained any more.
OF_A_LORA = {"lora_rank", "lora_alpha", "lora_target_modules", "use_rslora", "use_dora"}
OF_A_LORA |= {"init_lora_weights", "lora_modules_to_save"}


class Words:
    """Settings that are read from foreign ones, one after the other."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content  # the settings of this package among them
        self.settings: dict[str, Any] = {}
        self.mistakes: list[str] = []
        self.notices: list[str] = []

    def take(self, name: str, settings: Mapping[str, Any]) -> None:
        """What the foreign setting ``name`` stands for; two that differ are a mistake."""
        for own, value in settings.items():
            other = {**self.content, **self.settings}.get(own, value)
            if str(other) != str(value):
                line = f"{name} and {own} say two things, {own} {short(other)}; keep one"
                self.mistakes.append(line)
            self.settings[own] = value

    def read(self, name: str, value: Any) -> None:
        """Read one foreign setting."""
        try:
            settings = READERS[name](value) if name in READERS else worded(name, value)
        except ValueError as error:
            self.mistakes.append(str(error))
        else:
            self.take(name, settings)


def worded(name: str, value: Any) -> dict[str, Any]:
    """The settings that a word of ``WORDS`` stands for. Raises ValueError for other words."""
    known = WORDS[name]
    word = str(value).lower()
    if word not in known:
        raise ValueError(f"{name} {short(value)} does not exist here; known: {', '.join(known)}")
    return known[word]


def read_targets(value: Any) -> dict[str, Any]:
    """LLaMA-Factory's layers of a LoRA: all, or names with commas between them."""
    names = names_in(value)
    return {"lora_target_modules": ["all-linear"] if names == ["all"] else names}


def read_registry(value: Any) -> dict[str, Any]:
    """The registry in LLaMA-Factory's folder of data. Raises ValueError for one on a hub."""
    folder = str(value)
    if folder.startswith(ELSEWHERE):
        raise ValueError(
            f"dataset_dir {short(folder)} is no folder; name the data with --dataset_name"
        )
    return {"dataset_info": str(Path(folder) / "dataset_info.json")}


def read_arguments(value: Any) -> dict[str, Any]:
    """Arguments of a model as settings. Raises ValueError for those that are none here."""
    if not isinstance(value, dict):
        raise ValueError("model_init_kwargs is one value; names with values are wanted")
    if unknown := sorted(str(name) for name in value if name not in MODEL_ARGUMENTS):
        known = ", ".join(MODEL_ARGUMENTS)
        raise ValueError(f"model_init_kwargs: {short(unknown[0])} is unknown; known: {known}")
    return {"model_revision" if name == "revision" else name: value[name] for name in value}


READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "lora_target": read_targets,
    "additional_target": lambda value: {"lora_modules_to_save": names_in(value)},
    "dataset_dir": read_registry,
    "model_init_kwargs": read_arguments,
    # Its default, true, is said of templates that do not think as well, and asks nothing of them.
    "enable_thinking": lambda value: (
        {} if str(value).lower() in TRUE else {"chat_template_kwargs": {"enable_thinking": False}}
    ),
    "dataset_mixture": read_mixture,
    "dataset_mixer": read_mixer,
    "interleave_probs": read_probabilities,
}
FOREIGN = {*WORDS, *READERS, *OF_PISSA, *ADAPTERS, *V1, "template", "dataset_splits"}


def translate(content: Mapping[str, Any]) -> Translation:
    """The settings that a file, or flags, of another program stand for; a file of this one's own
    stays as it is."""
    newer = is_v1(content)
    content = {
        name: value
        for name, value in content.items()
        if name not in LEFT_OPEN or value != LEFT_OPEN[name]
    }
    content, mistakes, notices = unfolded(
        {name: alone(value) if name in V1 else value for name, value in content.items()}
    )
    given = {name: alone(value) for name, value in content.items() if name in FOREIGN}
    own = {name: value for name, value in content.items() if name not in FOREIGN}
    words = Words(own)
    words.mistakes += mistakes
    words.notices += notices
    for name, value in given.items():
        words.notices += said_of(name, value)
        if name == "dataset_splits":
            read_splits(value, words)
        elif name in OF_PISSA:
            words.settings |= read_pissa(given)
        elif name in ADAPTERS:
            read_adapter(name, value, words)
        elif value is not None and name != "template":
            words.read(name, value)
    if given.get("stage") == "kto" and "pref_loss" in own:
        words.notices.append(OWN_LOSS.format(short(own.pop("pref_loss"))))
    content = {**own, **words.settings}
    if given.get("finetuning_type") == "full":
        content = without_lora(content, words)
    beneath = factory_layer(content) if "stage" in given else v1_layer if newer else None
    return Translation(content, words.mistakes, words.notices, beneath)


def said_of(name: str, value: Any) -> list[str]:
    """The line that says how a foreign setting is taken, where that is not what it says."""
    if name == "template" and not is_off(value):
        return [OWN_TEMPLATE.format(short(value))]
    if name == "dataset_mixture" and isinstance(value, dict) and "seed" in value:
        return [SEED]
    return [THINKING] if name == "enable_thinking" and str(value).lower() in TRUE else []


def without_lora(content: Mapping[str, Any], words: Words) -> dict[str, Any]:
    """The settings but for those of a LoRA, which are told to have no effect."""
    if idle := sorted(OF_A_LORA & set(content)):
        words.notices.append(f"finetuning_type full: no effect has {', '.join(idle)}")
    return {name: value for name, value in content.items() if name not in OF_A_LORA}


def alone(value: Any) -> Any:
    """The word of a list of one: what follows a flag comes as a list."""
    return (
        value[0]
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str)
        else value
    )


def read_adapter(name: str, value: Any, words: Words) -> None:
    """An adapter on a model that another setting names: here it stands in that one's place."""
    if is_off(value):
        return
    own, *others = ADAPTERS[name]
    base = next((words.content[key] for key in (own, *others) if words.content.get(key)), None)
    if line := not_its_base(name, str(value), base):
        words.mistakes.append(line)
    words.settings[own] = str(value)
    for other in others:
        words.content.pop(other, None)


def read_splits(value: Any, words: Words) -> None:
    """alignment-handbook's splits: those with "train" in their names, and those with "test"."""
    names = [str(name) for name in (value if isinstance(value, list) else [value])]
    found = {part: [name for name in names if part in name] for part in ("train", "test")}
    if len(names) > 2 or any(len(part) > 1 for part in found.values()):
        words.mistakes.append("dataset_splits: name one split with train, and one with test")
        return
    if odd := [name for name in names if "train" not in name and "test" not in name]:
        words.mistakes.append(
            f"dataset_splits {short(odd[0])}: neither train nor test; use --dataset_train_split"
        )
    for part, (name, *_) in ((part, split) for part, split in found.items() if split):
        words.take("dataset_splits", {f"dataset_{part}_split": name})


def factory_layer(content: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Layer]:
    """LLaMA-Factory's own defaults for a recipe of its, given the settings above them."""
    named = {"dataset_info": "data/dataset_info.json"} if "dataset" in content else {}

    def layer(given: Mapping[str, Any]) -> Layer:
        defaults = {**FACTORY, **named}
        if given.get("use_peft", True):
            rank = given.get("lora_r", FACTORY_RANK)
            defaults |= {"lora_r": rank, "lora_alpha": 2 * rank}
        if given.get("load_in_4bit"):
            defaults["use_bnb_nested_quant"] = True
        return Layer("LLaMA-Factory's defaults", defaults, "defaults of LLaMA-Factory:")

    return layer
