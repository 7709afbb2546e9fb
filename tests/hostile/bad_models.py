"""Image models and policies that cannot be what training and evaluation need."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from diffdpo.data.paths import POINTER
from tests.factory import changed
from tests.hostile.case import Bad, Material

Flags = list[str]
XL = "StableDiffusionXLPipeline"
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


def train(material: Material, model: object, *words: object) -> Flags:
    """Flags of one step on good pairs."""
    base = ["--pretrained_model_name_or_path", model, "--dataset_name", material.pairs]
    base += ["--output_dir", material.folder / "run", "--report_to", "none", "--rank", "2"]
    return [str(word) for word in [*base, "--max_train_steps", "1", *words]]


def entries(file: str, family: str = "StableDiffusionPipeline", **values: Any) -> Callable:
    """Training on a model with other entries in one of its JSON files."""

    def make(material: Material) -> Flags:
        model = changed(material.models(family), material.folder / "model", file, **values)
        return train(material, model)

    return make


def spoilt(spoil: Callable[[Path], object], *words: str) -> Callable:
    """Training on a copy of a model in which ``spoil(folder)`` changed files."""

    def make(material: Material) -> Flags:
        model = material.folder / "model"
        shutil.copytree(material.models(), model)
        spoil(model)
        return train(material, model, *words)

    return make


def weights(file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable:
    """Training on a model with other weights in one of its files."""

    def spoil(model: Path) -> None:
        held = load_file(model / file)
        change(held)
        save_file(held, model / file, {"format": "pt"})

    return spoilt(spoil)


def lose_one(held: dict[str, torch.Tensor]) -> None:
    held.pop(min(held))


def first_nan(held: dict[str, torch.Tensor]) -> None:
    held[min(held)].view(-1)[0] = float("nan")


def pickled(model: Path) -> None:
    """The UNet's weights as a pickle of the older kind."""
    torch.save(load_file(model / UNET), (model / UNET).with_suffix(".bin"))
    (model / UNET).unlink()


def half_alone(model: Path) -> None:
    """Each network's file under the name of a variant."""
    for file in (UNET, VAE, TEXT):
        (model / file).rename((model / file).with_suffix(".fp16.safetensors"))


def single_file(material: Material) -> Flags:
    file = material.folder / "model.safetensors"
    save_file({"conditioner.weight": torch.ones(1)}, file)
    return train(material, file)


def lora(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable:
    """Evaluation of a LoRA with the names ``change`` gives to the weights of one layer."""

    def make(material: Material) -> Flags:
        layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
        held = {f"{layer}.lora_A.weight": torch.ones(2, 32)}
        held[f"{layer}.lora_B.weight"] = torch.ones(32, 2)
        run = material.folder / "policy"
        run.mkdir()
        save_file(change(held), run / "pytorch_lora_weights.safetensors")
        return evaluate(material, run)

    return make


def evaluate(material: Material, policy: object) -> Flags:
    """Flags of a short evaluation."""
    words = ["--pretrained_model_name_or_path", material.models(), "--policy", policy]
    words += ["--dataset_name", material.pairs, "--split", "train"]
    words += ["--output_dir", material.folder / "out", "--num_prompts", "1"]
    return [str(word) for word in [*words, "--num_inference_steps", "1", "--implicit_draws", "1"]]


def lora_as(flag: str) -> Callable:
    """Training with a LoRA's folder as a model or a checkpoint."""

    def make(material: Material) -> Flags:
        folder = material.folder / "lora"
        folder.mkdir()
        save_file({"a": torch.ones(1)}, folder / "pytorch_lora_weights.safetensors")
        model = folder if flag.startswith("--pretrained") else material.models()
        more = [] if flag.startswith("--pretrained") else [flag, folder]
        return train(material, model, *more)

    return make


def policy_with(spoil: Callable[[Path], object]) -> Callable:
    """Evaluation of a whole pipeline as a policy, with changed files."""

    def make(material: Material) -> Flags:
        run = material.folder / "policy"
        shutil.copytree(material.models(), run)
        spoil(run)
        return evaluate(material, run)

    return make


def other_init(material: Material) -> Flags:
    init = changed(
        material.models(), material.folder / "init", "unet/config.json", attention_head_dim=4
    )
    words = ["--pretrained_model_name_or_path", material.models(), "--dataset_name", material.pairs]
    words += ["--output_dir", material.folder / "run", "--unet_init", init, "--report_to", "none"]
    return [str(word) for word in words]


def text(file: str, content: object) -> Callable:
    return spoilt(lambda model: (model / file).write_text(json.dumps(content)))


def removed(name: str) -> Callable:
    return spoilt(lambda model: shutil.rmtree(model / name))


INDEX, UNET_CONFIG, VAE_CONFIG = "model_index.json", "unet/config.json", "vae/config.json"
TEXT_CONFIG, SCHEDULER = "text_encoder/config.json", "scheduler/scheduler_config.json"
TRAIN, JUDGE = "train_diffusion_dpo", "evaluate"
EDM = ["diffusers", "EDMDPMSolverMultistepScheduler"]
FLOW = ["diffusers", "FlowMatchEulerDiscreteScheduler"]

CASES = [
    Bad("an EDM scheduler", TRAIN, entries(INDEX, XL, scheduler=EDM), ".*EDMDPM.*not supported"),
    Bad("a flow scheduler", TRAIN, entries(INDEX, scheduler=FLOW), ".*FlowMatch.*not supported"),
    Bad("a prediction of samples", TRAIN, entries(SCHEDULER, prediction_type="sample"), ".*sample"),
    Bad("betas that are NaN", TRAIN, entries(SCHEDULER, beta_end=float("nan")), ".*no noise sched"),
    Bad("no timesteps", TRAIN, entries(SCHEDULER, num_train_timesteps=0), ".*between 2 and"),
    Bad("an unknown entry of one", TRAIN, entries(SCHEDULER, shift=3.0), ".*known of shift"),
    Bad("statistics without use", TRAIN, entries(VAE_CONFIG, latents_mean=[1.0] * 4), ".*ignored"),
    Bad("a factor in words", TRAIN, entries(VAE_CONFIG, scaling_factor="small"), ".*scaling"),
    Bad("a negative scaling factor", TRAIN, entries(VAE_CONFIG, scaling_factor=-1.0), ".*positive"),
    Bad("nine channels", TRAIN, entries(UNET_CONFIG, in_channels=9), ".*takes 9 channels"),
    Bad("channels below zero", TRAIN, entries(UNET_CONFIG, block_out_channels=[-64, 64]), ".*-64"),
    Bad("channels beyond memory", TRAIN, entries(UNET_CONFIG, in_channels=10**9), ".*in_channels"),
    Bad("a text encoder of another width", TRAIN, entries(UNET_CONFIG, cross_attention_dim=768),
        ".*cross_attention_dim is 768, the text encoders give 32"),
    Bad("images that are not square", TRAIN, entries(UNET_CONFIG, sample_size=[16, 24]),
        r".*no square; say --resolution"),
    Bad("the condition of a refiner", TRAIN,
        entries(UNET_CONFIG, XL, projection_class_embeddings_input_dim=72), ".*does not take what"),
    Bad("a vocabulary too large", TRAIN, entries(TEXT_CONFIG, vocab_size=10**10), ".*vocab_size"),
    Bad("a vocabulary below the tokenizer's", TRAIN, entries(TEXT_CONFIG, vocab_size=99), ".*99"),
    Bad("an index that is a list", TRAIN, text(INDEX, [1]), ".*model_index"),
    Bad("a class that is a list", TRAIN, entries(INDEX, _class_name=["a"]), ".*names no pipeline"),
    Bad("a component of the system", TRAIN, entries(INDEX, unet=["os", "system"]), r".*os\.system"),
    Bad("no tokenizer", TRAIN, removed("tokenizer"), ".*tokenizer: no such folder"),
    Bad("no text encoder", TRAIN, removed("text_encoder"), ".*text_encoder: no config.json there"),
    Bad("no autoencoder, latents stored", "precompute", removed("vae"), ".*vae"),
    Bad("a UNet with a hole", TRAIN, weights(UNET, lose_one), ".*unet: its files lack weights"),
    Bad("an autoencoder with a hole", TRAIN, weights(VAE, lose_one), ".*vae: its files lack"),
    Bad("a text encoder with a hole", TRAIN, weights(TEXT, lose_one), ".*text_encoder: its files"),
    Bad("a weight without a place", TRAIN,
        weights(UNET, lambda held: held.update(left=torch.ones(1))), ".*that have no place"),
    Bad("a weight of another shape", TRAIN,
        weights(VAE, lambda held: held.update({min(held): torch.ones(1)})), ".*vae: "),
    Bad("a NaN in the UNet", TRAIN, weights(UNET, first_nan), ".*unet: NaN or infinite weights"),
    Bad("a NaN in the text encoder", TRAIN, weights(TEXT, first_nan), ".*text_encoder: NaN or inf"),
    Bad("pickled weights", TRAIN, spoilt(pickled), r".*pickled weights .*save_pretrained\("),
    Bad("a pointer of Git LFS", TRAIN,
        spoilt(lambda model: (model / UNET).write_bytes(POINTER + b".github.com/spec/v1")),
        r".*unet: diffusion_pytorch_model.safetensors is a Git LFS pointer .* git lfs pull"),
    Bad("one variant alone", TRAIN, spoilt(half_alone), ".*variant fp16 alone; add --variant fp16"),
    Bad("a variant that is not there", TRAIN, spoilt(lambda model: None, "--variant", "bf16"),
        ".*holds no variant bf16"),
    Bad("a single file", TRAIN, single_file, r".*StableDiffusionXLPipeline\.from_single_file"),
    Bad("a LoRA as the model", TRAIN, lora_as("--pretrained_model_name_or_path"), ".*fuse it into"),
    Bad("a LoRA as a checkpoint", TRAIN, lora_as("--resume_from_checkpoint"), ".*fuse it into"),
    Bad("another UNet to start from", TRAIN, other_init, ".*another shape than the model's"),
    Bad("a LoRA without a prefix", JUDGE,
        lora(lambda held: {k.removeprefix("unet."): v for k, v in held.items()}),
        ".*no weights in its LoRA file fit the model .*mid_block"),
    Bad("a LoRA of which a part has no place", JUDGE,
        lora(lambda held: held | {f"text_encoder_3.{k}": v + 1 for k, v in held.items()}),
        ".*have no place .*text_encoder_3"),
    Bad("a LoRA of NaN", JUDGE, lora(lambda all: {k: v / 0 for k, v in all.items()}), ".*infinite"),
    Bad("a policy with a hole", JUDGE, policy_with(
        lambda run: (run / UNET).write_bytes((run / UNET).read_bytes()[:999])), "--policy .*unet"),
    Bad("a policy of another shape", JUDGE, policy_with(
        lambda run: (run / UNET_CONFIG).write_text(json.dumps(
            json.loads((run / UNET_CONFIG).read_text()) | {"attention_head_dim": 4}))),
        "--policy .*another shape than the model's"),
    Bad("pairs to be made by an EDM model", "make_pairs",
        lambda material: train(material, changed(
            material.models(XL), material.folder / "model", INDEX, scheduler=EDM))[:6],
        ".*EDMDPM.*not supported"),
]  # fmt: skip
