"""What a card could do, and what is wanted of it: peaks, goals, and the work of a row."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scripts.benchmark.results import Result

TERA = 1e12
# Dense matrix products in bfloat16, TFLOP/s, by words of the card's name; the first that fits.
PEAKS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "GH200": 989.0,
    "B200": 2250.0,
    "A100": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "A40": 150.0,
    "A6000": 155.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "4090": 165.0,
    "3090": 71.0,
    "5090": 210.0,
}
# Pairs a second on one H100.
GOALS = {"sdxl-lora-stored": 11.0, "sdxl-lora-live": 7.3, "sd15-lora-live": 51.0}
HOST_GOAL = 0.03  # of a step
SPARE = 10 * 2**30  # bytes of a card for activations, where it is asked what fits


@dataclass(frozen=True)
class Work:
    """A row's floating-point operations for a pair, and bytes of its weights and states."""

    flops: float
    held: int


def work_of(kind: str, variant: str, forward: float, weights: int) -> Work:
    """What a pair takes: in forward passes of one image, a LoRA 2 (its backward pass needs no
    gradients of weights), a full fine-tune 3, and a live reference 1 more. What gradient
    checkpointing computes again is not counted.

    Bytes: under a LoRA 2 a weight, for bfloat16; in full 16, for weight, gradient and two moments
    in float32, and 4 for a copy where the reference is live.
    """
    live = variant != "stored"
    passes = (2 if kind == "lora" else 3) + live
    held = 2 * weights if kind == "lora" else (20 if live else 16) * weights
    return Work(2 * passes * forward, held)


def peak(card: str | None) -> float | None:
    """FLOP/s of a card in bfloat16; None where it is not known."""
    if card is None:
        return None
    named = (rate * TERA for name, rate in PEAKS.items() if re.search(rf"\b{name}\b", card))
    return next(named, None)


def pairs_a_second(result: Result, pairs: int) -> list[float]:
    """Of every repetition."""
    return [pairs / wall for wall in result.wall]
