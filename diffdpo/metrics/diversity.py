"""How much the pictures of one prompt differ from seed to seed: a policy that draws the same one
every time may win, and is of less use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffdpo.metrics.identity import digest_of, weight_files
from diffdpo.metrics.intervals import clustered_mean
from diffdpo.metrics.pixels import CROP
from diffdpo.metrics.weights import load_network

Embed = Callable[[Sequence[Image.Image]], np.ndarray]  # N pictures → (N, D)

COLLAPSED = 0.5  # share of the reference's diversity that is lost where a policy has collapsed
BINS, SIDE = 4, 8
PIXELS = f"colour histogram of {BINS}³ bins and {SIDE}×{SIDE} pixels"


@dataclass(frozen=True)
class Tower:
    """What embeds pictures, and its name, which is printed with every figure."""

    name: str
    embed: Embed


def open_tower(folder: str | None, device: Any, dtype: Any) -> Tower:
    """The CLIP image tower in a folder; where None, an embedding that needs no network.

    Raises UserError where the folder holds none.
    """
    if folder is None:
        return Tower(PIXELS, pixel_embedding)
    import torch
    from transformers import CLIPVisionModelWithProjection

    place, path = f"--diversity_model {folder}", Path(folder).expanduser()
    # The folder may hold the whole CLIP, whose text side is not asked.
    model = load_network(CLIPVisionModelWithProjection, path, place, spare=("text_", "logit_")).to(
        device, dtype
    )
    side = model.config.image_size

    @torch.no_grad()
    def embed(pictures: Sequence[Image.Image]) -> np.ndarray:
        pixels = torch.from_numpy(CROP.pixels(pictures, side)).to(device, dtype)
        found: np.ndarray = model(pixel_values=pixels).image_embeds.double().cpu().numpy()
        return found

    weights = digest_of(weight_files(path))
    return Tower(f"CLIP {weights}, {side} px, {CROP.text}", embed)


def pixel_embedding(pictures: Sequence[Image.Image]) -> np.ndarray:
    """(N, 64 + 192): the root of the colour histogram, whose cosine is Bhattacharyya's coefficient,
    beside a thumbnail of length 1; a cosine of two is the mean of both cosines."""
    rows = []
    for picture in pictures:
        colour = picture.convert("RGB")
        levels = np.asarray(colour, dtype=np.int64).reshape(-1, 3) * BINS // 256
        histogram = np.bincount(levels @ (BINS * BINS, BINS, 1), minlength=BINS**3)
        small = colour.resize((SIDE, SIDE), Image.Resampling.BOX)
        thumbnail = np.asarray(small, dtype=np.float64).ravel() + 1  # no length of 0 for black
        rows.append(
            np.concatenate(
                [np.sqrt(histogram / histogram.sum()), thumbnail / np.linalg.norm(thumbnail)]
            )
        )
    return np.array(rows)


def between_seeds(embedding_PKD: np.ndarray) -> np.ndarray:
    """(P,): 1 − the mean cosine between the embeddings of the ``K`` ≥ 2 pictures of each prompt."""
    length = np.linalg.norm(embedding_PKD, axis=2, keepdims=True)
    unit_PKD = embedding_PKD / np.maximum(length, 1e-12)
    times = embedding_PKD.shape[1]
    # |Σ u|² holds every pair twice, and each with itself.
    both_P = np.square(unit_PKD.sum(axis=1)).sum(axis=1) - np.square(unit_PKD).sum(axis=(1, 2))
    return 1 - both_P / (times * (times - 1))


@dataclass(frozen=True)
class Change:
    """How much pictures of a prompt differ between seeds, by policy and by reference, and by what
    share of the reference's the policy's is above it: the mean over prompts, with its 95 %
    interval, which a single prompt has not. Where the reference's are all alike the share is 0."""

    policy: float
    reference: float
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        known = math.isfinite(self.low)
        bounds = f" [{self.low:+.0%}, {self.high:+.0%}]" if known else "; one prompt, no interval"
        return (
            f"pictures of a prompt differ by {self.policy:.3g} between seeds, the reference's by"
            f" {self.reference:.3g} ({self.share:+.0%}{bounds})"
        )

    @property
    def collapsed(self) -> bool:
        """Whether the whole interval lies below what counts as a collapse."""
        return self.high < -COLLAPSED


def diversity_change(policy_PKD: np.ndarray, reference_PKD: np.ndarray, seed: int) -> Change:
    """The change from the embeddings of ``K`` ≥ 2 pictures of each of ``P`` prompts, at the same
    seeds. The interval is that of a ratio of means, to first order: prompts whose pictures differ
    more than those of others widen it no further than they lose more or less of it."""
    own_P, before_P = between_seeds(policy_PKD), between_seeds(reference_PKD)
    own, level = float(own_P.mean()), float(before_P.mean())
    if level < 1e-6:  # rounding: nothing is there to be lost
        return Change(own, level, 0.0, 0.0, 0.0)
    ratio = own / level
    share_P = ratio - 1 + (own_P - ratio * before_P) / level
    share = clustered_mean(share_P.tolist(), range(len(share_P)), seed)
    return Change(own, level, share.value, *share.interval)
