"""Language models, adapters and templates that cannot be used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from tests.hostile.bad_texts import flags
from tests.hostile.case import Bad, Material


def model(spoil: Callable[[Path], None], *words: object) -> Callable[[Material], list[str]]:
    """Training a copy of the good model that ``spoil`` has changed."""

    def make(material: Material) -> list[str]:
        folder = material.folder / "model"
        shutil.copytree(material.lm, folder)
        spoil(folder)
        return flags(material, folder, material.texts["chats"], *words)

    return make


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Changes the weights in a folder."""

    def spoil(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    return spoil


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][3] = float("nan")


def configuration(file: str = "config.json", **changes: Any) -> Callable[[Path], None]:
    """Changes values of a JSON file in a folder."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **changes}))

    return spoil


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def template(source: str) -> Callable[[Path], None]:
    """Gives the tokenizer of a folder another chat template."""
    return lambda folder: (folder / "chat_template.jinja").write_text(source) and None


def adapter(**changes: Any) -> Callable[[Material], list[str]]:
    """Training an adapter of the good model further, with changes to its configuration."""

    def make(material: Material) -> list[str]:
        from transformers import AutoModelForCausalLM

        folder = material.folder / "adapter"
        network = AutoModelForCausalLM.from_pretrained(material.lm)
        network.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
        network.save_pretrained(folder)
        base = {"base_model_name_or_path": str(material.lm)}
        configuration("adapter_config.json", **{**base, **changes})(folder)
        return flags(material, folder, material.texts["pairs"])

    return make


def other_tokenizer(material: Material) -> list[str]:
    folder = material.folder / "other"
    shutil.copytree(material.lm, folder)
    words = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(words))
    pairs = material.texts["pairs"]
    return flags(material, material.lm, pairs, "--ref_model_name_or_path", folder)


def no_tokenizer(material: Material) -> list[str]:
    folder = material.folder / "other"
    shutil.copytree(material.lm, folder, ignore=shutil.ignore_patterns("*token*", "*.jinja"))
    pairs = material.texts["pairs"]
    return flags(material, material.lm, pairs, "--ref_model_name_or_path", folder)


def trained(*words: str) -> Callable[[Material], list[str]]:
    """Training the good model with other flags."""
    return lambda material: flags(material, material.lm, material.texts["pairs"], *words)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
NAME = r"--model_name_or_path \S+: "

MODELS = {
    "no head": (
        model(weights(lambda tensors: tensors.pop("lm_head.weight"))),
        NAME + r"lacks 1 of the network's weights \(lm_head.weight\)",
    ),
    "a layer too many": (
        model(weights(lambda tensors: tensors.update({"model.extra.weight": torch.ones(2)}))),
        NAME + r"holds 1 weights that the network has no place for \(model.extra.weight\)",
    ),
    "a layer that the file lacks": (
        model(configuration(num_hidden_layers=2)),
        NAME + r"lacks \d+ of the network's weights \(model.layers.1",
    ),
    "a weight that is no number": (model(weights(poison)), NAME + r"1 of its weights are not fin"),
    "weights of another size": (model(configuration(hidden_size=64)), NAME + "cannot be loaded"),
    "a size that is a word": (model(configuration(hidden_size="abc")), NAME + "cannot be loaded"),
    "weights that are cut off": (
        model(cut_off),
        NAME + r"cannot be loaded \(model.safetensors is not whole, fetch it once more: ",
    ),
    "weights that Git LFS has not fetched": (
        model(lambda folder: (folder / "model.safetensors").write_text(POINTER) and None),
        NAME + r"cannot be loaded \(model.safetensors is a Git LFS pointer",
    ),
    "a configuration that is no JSON": (
        model(lambda folder: (folder / "config.json").write_text("{") and None),
        NAME + r"cannot be loaded \(config.json: Expecting",
    ),
    "an encoder beside the decoder": (
        model(configuration(model_type="t5", is_encoder_decoder=True)),
        NAME + "has an encoder and a decoder; only causal models are trained",
    ),
    "a file in place of a folder": (
        lambda m: flags(m, m.lm / "model.safetensors", m.texts["pairs"]),
        NAME + r"cannot be loaded \(a file; name its folder\)",
    ),
    "no attention heads": (model(configuration(num_attention_heads=0)), NAME + "cannot be loaded"),
    "an architecture unknown": (model(configuration(model_type="x")), NAME + "cannot be loaded"),
    "pickled weights": (model(pickled), NAME + r"its weights are pickled \(pytorch_model.bin\)"),
    "a broken tokenizer": (
        model(lambda folder: (folder / "tokenizer.json").write_text("{") and None),
        NAME + "its tokenizer cannot be read",
    ),
    "a template that refuses": (
        model(template("{{ raise_exception('no') }}")),
        r"data: 12 of 12 rows cannot be used \(row 0: the chat template refuses it \(no\)",
    ),
    "a template that divides by zero": (
        model(template("{{ 1 // 0 }}")),
        r"data: 12 of 12 rows .*the chat template refuses it",
    ),
    "a template that calls itself": (
        model(template("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")),
        r"data: 12 of 12 rows .*the chat template refuses it",
    ),
    "a template with a long range": (
        model(template("{% for i in range(1000000000) %}x{% endfor %}")),
        r"data: 12 of 12 rows .*the chat template refuses it",
    ),
    "a template that is none": (model(template("{% if %}")), r"data: 12 of 12 rows .*refuses it"),
    "a base that is not there": (
        adapter(base_model_name_or_path="./gone"),
        r"\S+adapter: its adapter_config.json names the base model ./gone, and there is no such",
    ),
    "an adapter of a kind unknown": (adapter(peft_type="MAGIC"), NAME + "cannot be loaded"),
    "an adapter of another rank": (
        adapter(r=8),
        NAME + r"cannot be loaded \(its configuration gives weights other sizes than they have",
    ),
    "an adapter of other layers": (
        adapter(target_modules=["v_proj"]),
        NAME + r"lacks \d+ of the network's weights",
    ),
    "an adapter with biases": (adapter(bias="lora_only"), NAME + "its adapter trains biases"),
    "a reference with other words": (
        other_tokenizer,
        r"--ref_model_name_or_path \S+: has another tokenizer \(2 words differ, such as 'a'\)",
    ),
    "a reference without words": (no_tokenizer, r"--ref_model_name_or_path \S+: no tokenizer th"),
    "a share of the policy in no reference": (
        trained("--ref_model_mixup_alpha", "0.5"),
        "--ref_model_mixup_alpha belongs to --sync_ref_model; add that",
    ),
    "stored scores of a reference that moves": (
        trained("--sync_ref_model", "--precompute_ref_log_probs"),
        "--sync_ref_model: a reference that moves has no stored scores",
    ),
    "a start of a LoRA unknown": (
        trained("--use_peft", "--init_lora_weights", "eva"),
        "--init_lora_weights 'eva' is unknown; known: gaussian, pissa, pissa_niter_N, olora",
    ),
    "a start of more parts than a layer has": (
        trained("--use_peft", "--init_lora_weights", "pissa", "--lora_r", "40"),
        r"--init_lora_weights pissa: \S+ has fewer parts than --lora_r 40; take at most 32",
    ),
    "modules beside no LoRA": (
        trained("--lora_modules_to_save", "norm"),
        "--lora_modules_to_save is about a new LoRA; add --use_peft",
    ),
    "layers by another program's word": (
        trained("--use_peft", "--lora_target_modules", "all"),
        r"--lora_target_modules all: no module has this name \(did you mean all-linear\?\)",
    ),
    "layers that are not there among others": (
        trained("--use_peft", "--lora_target_modules", "q_proj,wq"),
        "--lora_target_modules wq: no module has this name",
    ),
    "modules that are not there": (
        trained("--use_peft", "--lora_modules_to_save", "wte"),
        "--lora_modules_to_save wte: no module has this name",
    ),
    "few bits without a LoRA": (
        trained("--base_precision", "int8"),
        "--base_precision int8 is about a LoRA; add --use_peft, or leave it out",
    ),
    "8 bits twice": (
        trained("--use_peft", "--load_in_8bit", "--base_precision", "int8"),
        "--base_precision int8 and --load_in_8bit exclude each other; keep one",
    ),
    "a type of 4 bits without them": (
        trained("--use_peft", "--bnb_4bit_quant_type", "fp4"),
        "--bnb_4bit_quant_type belongs to --load_in_4bit; add that",
    ),
    "a type of 4 bits unknown": (
        trained("--use_peft", "--load_in_4bit", "--bnb_4bit_quant_type", "int4"),
        "--bnb_4bit_quant_type 'int4' is unknown; known: nf4, fp4",
    ),
    "few bits of a model that has them": (
        model(
            configuration(quantization_config={"quant_method": "gptq", "bits": 4}),
            *("--use_peft", "--base_precision", "int8"),
        ),
        r"--base_precision int8: \S+ is quantised already; leave the flag out",
    ),
    "experts where there are none": (
        trained("--router_aux_loss_coef", "0.1"),
        r"--router_aux_loss_coef 0.1: LlamaForCausalLM is no mixture of experts",
    ),
}
CASES = [Bad(name, "train_text_dpo", make, line) for name, (make, line) in MODELS.items()]
