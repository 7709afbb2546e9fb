"""Runs that cannot begin, or whose numbers or memory give out while they train."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

from tests.hostile.case import Bad, Material
from tests.text.runs import flags

# Losses that are no number, have a gradient beyond all numbers, no memory, or no way to repeat.
OWN = """
import torch
import torch.nn.functional as F

steps = [0]

def plain(chosen_B, rejected_B, beta):
    return -F.logsigmoid(beta * (chosen_B - rejected_B))

def in_training(spoil):
    # A loss is tried before training, without a gradient: these break in training alone.
    def loss(chosen_B, rejected_B, *, beta):
        loss_B = plain(chosen_B, rejected_B, beta)
        steps[0] += chosen_B.requires_grad
        return spoil(loss_B) if chosen_B.requires_grad else loss_B

    return loss

def fail(loss_B, error):
    raise error

def unpooled(loss_B):
    spread, places = F.max_pool2d(torch.rand(1, 1, 4, 4), 2, return_indices=True)
    return loss_B + F.max_unpool2d(spread, places, 2).sum()

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
nan = in_training(lambda loss_B: loss_B * float("nan"))
infinite = in_training(lambda loss_B: loss_B.clamp(max=0) - float("inf"))
steep = in_training(lambda loss_B: (loss_B - loss_B.detach()) * 1e30 * 1e30)
nan_at_the_end = in_training(lambda loss_B: loss_B * (1 if steps[0] < 3 else float("nan")))
on_a_full_gpu = in_training(lambda loss_B: fail(loss_B, FULL))
without_memory = in_training(lambda loss_B: fail(loss_B, MemoryError()))
too_large = in_training(lambda loss_B: torch.empty(2**40, 2**40).sum())
unrepeatable = in_training(unpooled)
"""


def text_flags(own: str | None = None, **changes: object):
    """A short text run as a LoRA, with these settings, and a loss of one's own by name."""

    def make(material: Material) -> list[str]:
        settings = {"use_peft": True, "lora_r": 2, "max_train_steps": 12, **changes}
        if own:
            path = material.folder / "own.py"
            path.write_text(OWN)
            settings["loss_type"] = f"{path}:{own}"
        return flags(material.lm, material.texts["pairs"], material.folder / "run", **settings)

    return make


def image_words(material: Material, *words: object) -> list[str]:
    """A short image run with these flags."""
    base = ["--pretrained_model_name_or_path", material.models(), "--dataset_name", material.pairs]
    base += ["--output_dir", material.folder / "run", "--report_to", "none"]
    return [str(word) for word in (*base, "--max_train_steps", 12, *words)]


def image_flags(*words: object):
    """A short image run as a LoRA, with these flags."""
    return lambda material: image_words(material, "--rank", 2, *words)


def unet_with_a_nan(material: Material) -> list[str]:
    unet = UNet2DConditionModel.from_pretrained(material.models(), subfolder="unet")
    with torch.no_grad():
        unet.conv_in.bias[0] = torch.nan
    unet.save_pretrained(material.folder / "broken")
    return image_words(material, "--unet_init", material.folder / "broken")


TEXT, IMAGE = "train_text_dpo", "train_diffusion_dpo"
IN_A_ROW = r"5 steps in a row had a loss or gradient that is not finite \(--max_bad_steps\)"
SETTINGS = {
    "max_bad_steps": (0, r"--max_bad_steps must be at least 1, got 0"),
    "train_batch_size": (10**9, r"--train_batch_size must be at most 65536, got 1000000000"),
    "gradient_accumulation_steps": (10**9, r"--gradient_accumulation_steps must be at most"),
    "max_train_steps": (0, r"--max_train_steps must be at least 1"),
    "checkpointing_steps": (0, r"--checkpointing_steps must be above 0"),
    "checkpoints_total_limit": (0, r"--checkpoints_total_limit must be at least 1"),
    "logging_steps": (-1, r"--logging_steps must be above 0"),
    "learning_rate": ("nan", r"--learning_rate must be a finite number"),
    "max_grad_norm": ("nan", r"--max_grad_norm must be above 0, got nan"),
    "deterministic": ("perhaps", r"--deterministic: "),
    "lr_scheduler": ("polinomial", r"--lr_scheduler 'polinomial' is unknown"),
}

CASES = [
    *(
        Bad(f"{name} {value}", TEXT, text_flags(**{name: value}), line)
        for name, (value, line) in SETTINGS.items()
    ),
    Bad("a command that does not exist", "trian_text_dpo", text_flags(), r"unknown command trian"),
    Bad(
        "both memory-saving optimizers",
        TEXT,
        text_flags(use_8bit_adam=True, use_adafactor=True),
        r"--use_8bit_adam and --use_adafactor exclude each other",
    ),
    Bad(
        "a polynomial schedule below its own end",
        TEXT,
        text_flags(lr_scheduler="polynomial", learning_rate=1e-8),
        r"--lr_scheduler polynomial: ",
    ),
    Bad("a loss that is no number", TEXT, text_flags("nan"), IN_A_ROW),
    Bad("an infinite loss with a finite gradient", TEXT, text_flags("infinite"), IN_A_ROW),
    Bad("a gradient beyond every number", TEXT, text_flags("steep"), IN_A_ROW),
    Bad(
        "a gradient beyond every number, under Adafactor",
        TEXT,
        text_flags("steep", use_adafactor=True),
        IN_A_ROW,
    ),
    Bad(
        "a limit of one bad step",
        TEXT,
        text_flags("nan", max_bad_steps=1),
        r"1 steps in a row .* no checkpoint was saved",
    ),
    Bad(
        "a bad last step",
        TEXT,
        text_flags("nan_at_the_end", max_train_steps=3),
        r"the run ended with 1 steps that were not taken, so no result is written",
    ),
    Bad(
        "a beta beyond float32",
        TEXT,
        text_flags(beta="1e308"),
        "--loss_type sigmoid, beta 1e.308: is not finite",
    ),
    Bad(
        "a rate that ruins the weights",
        TEXT,
        text_flags(learning_rate=1e30, checkpointing_steps=100),
        IN_A_ROW,
    ),
    Bad(
        "a rate that overflows the weights",
        TEXT,
        text_flags(learning_rate=3e38, checkpointing_steps=1, adam_weight_decay=1e3),
        r"step \d+: weight .* is not finite, so this step is not saved",
    ),
    Bad(
        "a rate that ruins the weights of an image model",
        IMAGE,
        image_flags("--learning_rate", 1e30, "--max_bad_steps", 2),
        r"2 steps in a row",
    ),
    Bad(
        "a beta beyond float32 for images",
        IMAGE,
        image_flags("--beta_dpo", "1e308", "--max_bad_steps", 1),
        r"1 steps in a row",
    ),
    Bad(
        "a network with a weight that is no number",
        IMAGE,
        unet_with_a_nan,
        r"--unet_init .*: NaN or infinite weights \(1: conv_in.bias\)",
    ),
    Bad(
        "a LoRA of rank 1,000,000,000", TEXT, text_flags(lora_r=10**9), r"--lora_r must be at most"
    ),
    Bad(
        "100,000,000 timesteps a pair",
        IMAGE,
        image_flags("--timesteps_per_pair", 10**8),
        r"--timesteps_per_pair must be at most",
    ),
    Bad(
        "a GPU that is full",
        TEXT,
        text_flags("on_a_full_gpu"),
        r"out of memory \(CUDA out of memory.*; take a smaller --train_batch_size",
    ),
    Bad("no memory", TEXT, text_flags("without_memory"), r"out of memory; take a smaller"),
    Bad("a tensor beyond all memory", TEXT, text_flags("too_large"), r"out of memory \("),
    Bad(
        "an operation that cannot repeat",
        TEXT,
        text_flags("unrepeatable", deterministic=True),
        r"--deterministic: max_unpool\w* has no algorithm that repeats",
    ),
]
