"""How much the pictures of one prompt differ from seed to seed: a policy that draws the same one
every time may win, and is of less use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffdpo.errors import UserError, short

Embed = Callable[[Sequence[Image.Image]], np.ndarray]  # N pictures → (N, D)

BINS, SIDE = 4, 8
PIXELS = f"colour histogram of {BINS}³ bins and {SIDE}×{SIDE} pixels"
# CLIP's own means and deviations of pixel values from 0 to 1.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


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
    from transformers import CLIPVisionModelWithProjection

    try:
        model: Any = CLIPVisionModelWithProjection.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--diversity_model {folder}: no CLIP image tower can be loaded ({short(error)})"
        ) from error
    model = model.to(device, dtype).eval()
    side = model.config.image_size

    def embed(pictures: Sequence[Image.Image]) -> np.ndarray:
        import torch

        pixels = np.stack([normalised(centre(picture, side)) for picture in pictures])
        with torch.no_grad():
            found = model(pixel_values=torch.from_numpy(pixels).to(device, dtype))
        return found.image_embeds.double().cpu().numpy()

    return Tower(f"CLIP {Path(folder).name}, {side} px", embed)


def centre(picture: Image.Image, side: int) -> Image.Image:
    """The middle square of a picture whose shorter side became ``side`` pixels."""
    width, height = picture.size
    scale = side / min(width, height)
    size = (max(side, round(width * scale)), max(side, round(height * scale)))
    small = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return small.crop((left, top, left + side, top + side))


def normalised(picture: Image.Image) -> np.ndarray:
    """(3, H, W) in float32, with CLIP's means and deviations."""
    pixels = np.asarray(picture, dtype=np.float32) / 255
    return ((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)


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
