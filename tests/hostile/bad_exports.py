"""Checkpoints that cannot be written out, and LoRAs that cannot be made or trained on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffdpo.engine.run_config import IN_MEMORY
from tests.hostile.bad_checkpoints import checkpoint, flip, seal, write
from tests.hostile.bad_runs import image_words
from tests.hostile.case import Bad, Material

EXPORT, TRAIN = "export", "train_diffusion_dpo"
LORA = "pytorch_lora_weights.safetensors"


def exported(*words: object, spoil: Callable[[Path], object] | None = None, **settings: object):
    """The export of a run with one checkpoint, of step 4, that was made with these settings."""

    def make(material: Material) -> list[str]:
        run = material.folder / "run"
        path = checkpoint(run, 4)
        content = {"pretrained_model_name_or_path": str(material.models()), **settings}
        content = {name: value for name, value in content.items() if value is not None}
        rest = {"effective_batch": 4, "data": "d", "optimizer": {"values": {}, "param_groups": []}}
        seal(path, {"step": 4, "settings": content, **rest})
        if spoil:
            spoil(run)
        return [str(word) for word in (run, *(words or ("--step", 4)))]

    return make


def image_run(*words: object):
    """A short image run with these flags, a full fine-tune where they name no LoRA."""
    return lambda material: image_words(material, *words)


def from_lora(weights: dict[str, torch.Tensor] | str, *words: object):
    """A short image run from a LoRA file with these weights, or of this text."""

    def make(material: Material) -> list[str]:
        file = material.folder / LORA
        if isinstance(weights, str):
            file.write_text(weights)
        else:
            save_file(weights, file)
        return image_words(material, "--init_lora", file, *words)

    return make


def a_result_in_its_place(run: Path) -> None:
    write("export-4/mine.txt", "x")(run)


LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora"
GOOD = {f"{LAYER}.down.weight": torch.ones(2, 32), f"{LAYER}.up.weight": torch.ones(32, 2)}
LOHA = {f"{LAYER.removesuffix('.lora')}.hada_w1_a": torch.ones(2, 2)}
DAMAGED = {f"{LAYER}.down.weight": torch.ones(2, 31), f"{LAYER}.up.weight":
           torch.ones(32, 2)}  # fmt: skip
NO_LORA = r"--{} is about a LoRA; add --rank or --init_lora, or leave it out"

CASES = [
    Bad("no run", EXPORT, lambda m: ["--step", "4"], r"export the folder of a run is needed"),
    Bad("a run that is not there", EXPORT, lambda m: ["no/run", "--step", "4"],
        r"export no/run: no such folder"),
    Bad("a second word", EXPORT, exported("other", "--step", 4), r"stray word 'other'"),
    Bad("no step", EXPORT, exported("--output_dir", "out"), r"--step is needed; \S+ holds"),
    Bad("a step without a checkpoint", EXPORT, exported("--step", 3),
        r"--step 3: not there; \S+run holds checkpoint-4"),
    Bad("a step that is a word", EXPORT, exported("--step", "last"), r"--step: invalid int value"),
    Bad("a bit of the weights", EXPORT,
        exported(spoil=flip("checkpoint-4/trainable.safetensors")), r".*damaged"),
    Bad("a checkpoint of others", EXPORT, exported(spoil=write("checkpoint-4/state.json", "{}")),
        r".*not a checkpoint of diffdpo"),
    Bad("a model in memory", EXPORT, exported(pretrained_model_name_or_path=IN_MEMORY),
        r".*was made from a model in memory"),
    Bad("a setting that is not known", EXPORT, exported(beta_dop=3), r".*unknown setting"),
    Bad("neither images nor text", EXPORT, exported(pretrained_model_name_or_path=None, rank=2),
        r"\S+checkpoint-4: not a checkpoint of image training"),
    Bad("weights of another network", EXPORT, exported(rank=2),
        r"\S+checkpoint-4: holds weights of another network"),
    Bad("a folder that is in use", EXPORT, exported(spoil=a_result_in_its_place),
        r"--output_dir \S+export-4: holds mine.txt"),
    *(
        Bad(f"{words[0]} without a LoRA", TRAIN, image_run(*[f"--{words[0]}", *words[1:]]),
            NO_LORA.format(words[0]))
        for words in (["lora_alpha", 2], ["use_dora"], ["use_rslora"], ["lora_format", "kohya"],
                      ["lora_dtype", "bf16"])
    ),
    Bad("an alpha of nothing", TRAIN, image_run("--rank", 2, "--lora_alpha", 0),
        r"--lora_alpha must be above 0"),
    Bad("a form that is not known", TRAIN, image_run("--rank", 2, "--lora_format", "a1111"),
        r"--lora_format 'a1111' is unknown; known: both, diffusers, kohya"),
    Bad("a precision that is not known", TRAIN, image_run("--rank", 2, "--lora_dtype", "fp8"),
        r"--lora_dtype 'fp8' is unknown"),
    Bad("kohya's form of DoRA", TRAIN,
        image_run("--rank", 2, "--use_dora", "--lora_format", "kohya"), r"--lora_format kohya: "),
    Bad("an average that stands still", TRAIN, image_run("--rank", 2, "--ema_decay", 1),
        r"--ema_decay must be below 1"),
    Bad("a base without a LoRA", TRAIN, image_run("--rank", 2, "--reference", "base"),
        r"--reference base goes with --init_lora or --init_policy"),
    Bad("a LoRA that is not there", TRAIN, image_run("--init_lora", "no/run"),
        r"--init_lora no/run: no such folder or file"),
    Bad("a folder without a LoRA", TRAIN, image_run("--init_lora", "."),
        r"--init_lora \.: no pytorch_lora_weights.safetensors there"),
    Bad("a pickled LoRA", TRAIN, image_run("--init_lora", __file__),
        r"--init_lora \S+: safetensors files alone are read"),
    Bad("a LoRA of text", TRAIN, from_lora("no tensors"), r"--init_lora \S+: cannot be loaded"),
    Bad("a LoRA of no weights", TRAIN, from_lora({}), r"--init_lora \S+: "),
    Bad("a LoRA of another width", TRAIN, from_lora(DAMAGED), r"--init_lora \S+: "),
    Bad("a Hadamard product", TRAIN, from_lora(LOHA), r"--init_lora \S+: "),
    Bad("another rank than the LoRA's", TRAIN, from_lora(GOOD, "--rank", 3),
        r"--rank 3: the LoRA of --init_lora has 2; leave it out"),
    Bad("a LoRA and full weights", TRAIN, from_lora(GOOD, "--init_policy", "."),
        r"--unet_init starts a full fine-tune; leave out --init_lora"),
    Bad("a LoRA around the output", TRAIN,
        lambda material: [*from_lora(GOOD)(material), "--init_lora", str(material.folder)],
        r"--output_dir \S+: lies inside the folder of --init_lora"),
]  # fmt: skip
