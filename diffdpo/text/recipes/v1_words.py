"""Recipes of LLaMA-Factory's version 1 (``llamafactory-cli dpo``), whose settings are grouped by
what they configure, as settings of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffdpo.config import Layer, read_yaml
from diffdpo.errors import UserError, short
from diffdpo.text.recipes.adapter_words import names_in
from diffdpo.text.recipes.refused import SHARDS
from diffdpo.words import is_off

# What a group may say, and what that is called here.
Group = Mapping[str, str]
# What belongs to the export of a result, which is another command.
EXPORT = ("export_dir", "export_size", "export_hub_model_id", "export_legacy_format", "infer_dtype")
LORA: Group = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
    "modules_to_save": "lora_modules_to_save",
    "adapter_name_or_path": "adapter_name_or_path",
    **{name: name for name in EXPORT},
}
BITS: Group = {
    "quantization_bit": "quantization_bit",
    "quantization_type": "quantization_type",
    "double_quantization": "double_quantization",
    "compute_dtype": "bnb_4bit_compute_dtype",
}
SHARES: Group = {"dcp_path": "dcp_path"}
ENTRY = ("path", "split", "weight")
# Where a path leads is seen from the path itself.
SOURCES = ("hf_hub", "local")
DEFAULTS = {
    "max_length": 2048,
    "learning_rate": 1e-4,
    "lr_scheduler": "constant",
    "adam_weight_decay": 0.01,
    "train_batch_size": 1,
    "num_train_epochs": 3,
    "mixed_precision": "bf16",
    "gradient_checkpointing": True,
    "orpo_nll_on_prompt": False,
}
IN_SHARES = f"dist_config: {SHARDS}"


def grouped(name: str, value: Any, kinds: Mapping[str, Group]) -> dict[str, Any]:
    """The settings in a group of one of these ``kinds``, by the names they have elsewhere here.

    Raises ValueError for other kinds, and for settings that these do not have.
    """
    if not isinstance(value, dict) or "name" not in value:
        raise ValueError(f"{name} is a group of settings, with the name of its kind among them")
    if (kind := str(value["name"])) not in kinds:
        raise ValueError(
            f"{name}: {short(kind)} does not exist here; known: {', '.join(kinds) or 'none'}"
        )
    own = kinds[kind]
    if unknown := [str(key) for key in value if key != "name" and key not in own]:
        raise ValueError(f"{name}: {short(unknown[0])} is unknown; known: {', '.join(own)}")
    return {own[key]: part for key, part in value.items() if key != "name" and part is not None}


def read_peft(value: Any) -> dict[str, Any]:
    """The adapters. Raises ValueError for those that do not exist here."""
    found = grouped("peft_config", value, {"lora": LORA})
    if "lora_target_modules" in found:
        names = names_in(found["lora_target_modules"])
        found["lora_target_modules"] = ["all-linear"] if names == ["all"] else names
    return {"use_peft": True, **found}


def read_bits(value: Any) -> dict[str, Any]:
    """The bits of a base, in the words of the older recipes."""
    return grouped("quant_config", value, {"bnb": BITS, "auto": BITS})


def read_shares(value: Any) -> dict[str, Any]:
    """Nothing: weights are in shares where the launcher says so. Raises ValueError for other ways
    to spread them."""
    return grouped("dist_config", value, {"fsdp2": SHARES})


def read_data(value: Any) -> dict[str, Any]:
    """A data set, or those that a file lists. Raises ValueError for what it does not know."""
    name = str(value)
    if not name.endswith((".yaml", ".yml")):
        return {"dataset_name": [name]}
    if not Path(name).is_file():
        raise ValueError(f"train_dataset {short(name)}: no such file")
    try:
        listed = read_yaml(name)
    except UserError as error:
        raise ValueError(f"train_dataset {error}") from error
    return {"datasets": [entry_of(key, entry) for key, entry in listed.items()]}


def entry_of(key: str, entry: Any) -> dict[str, Any]:
    """A data set of such a file, as TRL lists it. Raises ValueError for what it does not know."""
    place = f"train_dataset: {short(str(key))}"
    if not isinstance(entry, dict) or not entry.get("path"):
        raise ValueError(f"{place} has no path")
    if (kind := entry.get("converter", "pair")) != "pair":
        raise ValueError(f"{place}: converter {short(str(kind))} reads no preferences; known: pair")
    if not is_off(entry.get("size")):
        raise ValueError(f"{place}: size draws rows anew; write weight, a share of the rows")
    if not is_off(entry.get("streaming")):
        raise ValueError(f"{place}: streaming is a setting of the run, for all of its data sets")
    if (source := entry.get("source", "local")) not in SOURCES:
        raise ValueError(f"{place}: source {short(str(source))}; known: {', '.join(SOURCES)}")
    known = {*ENTRY, "source", "converter", "size", "streaming"}
    if unknown := [str(name) for name in entry if name not in known]:
        raise ValueError(f"{place}: {short(unknown[0])} is unknown; known: {', '.join(ENTRY)}")
    return {"weight": 1.0, **{name: entry[name] for name in ENTRY if name in entry}}


READERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "peft_config": read_peft,
    "quant_config": read_bits,
    "dist_config": read_shares,
    "train_dataset": read_data,
}
# Settings that have another name here, and need no reading.
NAMES = {
    "model": "model_name_or_path",
    "custom_chat_template": "chat_template",
    "micro_batch_size": "train_batch_size",
    "enable_activation_checkpointing": "gradient_checkpointing",
}
V1 = {*READERS, *NAMES}


def is_v1(content: Mapping[str, Any]) -> bool:
    """Whether settings are those of such a recipe."""
    return "model" in content


def unfolded(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], list[str]]:
    """The settings with those of version 1 by other names of this package or of older recipes; a
    line for each mistake in them, and for what has no effect."""
    found = {name: value for name, value in content.items() if name not in V1}
    mistakes = []
    for name in (name for name in content if name in V1 and content[name] is not None):
        try:
            read = READERS[name](content[name]) if name in READERS else {NAMES[name]: content[name]}
        except ValueError as error:
            mistakes.append(str(error))
            continue
        mistakes += [
            f"{name} and {own} say two things, {own} {short(str(found[own]))}; keep one"
            for own, value in read.items()
            if str(found.get(own, value)) != str(value)
        ]
        found |= read
    return found, mistakes, [] if is_off(content.get("dist_config")) else [IN_SHARES]


def v1_layer(given: Mapping[str, Any]) -> Layer:
    """Version 1's own defaults."""
    return Layer("LLaMA-Factory's defaults", dict(DEFAULTS), "defaults of LLaMA-Factory:")
