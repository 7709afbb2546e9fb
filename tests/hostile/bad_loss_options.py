"""Options of image training that no loss reads, and losses that would teach nothing."""

from __future__ import annotations

from tests.hostile.bad_settings import image
from tests.hostile.case import Bad

LOSSES = {
    "an option of another loss": (
        ["--dpop_lambda", "5"],
        "--dpop_lambda: loss sigmoid does not read it; these do: dpop",
    ),
    "an option of an unpaired loss": (
        ["--loss_type", "ipo", "--desirable_weight", "2"],
        "--desirable_weight: loss ipo does not read it; these do: kto",
    ),
    "a loss beside sft": (
        ["--sft", "--loss_type", "ipo"],
        "--sft takes the place of --loss_type ipo; keep one of the two",
    ),
    "weights beside sft": (["--sft", "--loss_weights", "2"], "--loss_weights: --sft is one loss"),
    "target modules of no LoRA": (
        ["--lora_target_modules", "to_q"],
        "--lora_target_modules is about a LoRA; add --rank",
    ),
    "losses that all weigh nothing": (
        ["--loss_type", "sigmoid", "ipo", "--loss_weights", "0", "0"],
        "--loss_weights 0 0: none may be below 0, and one must be above it",
    ),
    "a weight below zero": (["--loss_weights", "-1"], "--loss_weights -1: none may be below 0"),
    "items that all weigh nothing": (
        ["--loss_type", "kto", "--desirable_weight", "0", "--undesirable_weight", "0"],
        "--desirable_weight and --undesirable_weight are both 0: nothing is learned",
    ),
}

CASES = [Bad(n, "train_diffusion_dpo", image(*words), line) for n, (words, line) in LOSSES.items()]
