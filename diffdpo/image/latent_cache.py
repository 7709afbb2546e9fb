"""Latents and prompt embeddings from disk: after them no autoencoder and no text encoder is needed.

Shapes: ``F`` flips (as it is, mirrored), two sides (first and second image of a row), latents
``CHW``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Value
from safetensors.torch import load, save
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from diffdpo.cache.keys import Key
from diffdpo.cache.tables import is_complete, table
from diffdpo.image.backbones.base import Backbone, Condition
from diffdpo.image.cache_keys import EncoderDigests, distinct_prompts, latents_key, prompts_key
from diffdpo.image.pairs import ImagePairs, Sides
from diffdpo.image.pixels import Augmentation, Encoded, Framed, frame
from diffdpo.image.settings import ImageSettings

ROW = Features(
    {"tensors": Value("binary"), "unreadable": Value("string")}
)  # safetensors, or why there are none
PROMPTS_AT_ONCE = 16


class Pictures(TorchDataset):
    """Both images of every usable row in every flip, as pixels; or why they cannot be read."""

    def __init__(self, pairs: ImagePairs, flips: int) -> None:
        self.pairs, self.flips = pairs, flips

    def __getitem__(self, number: int) -> list[Framed] | str:
        try:
            images = self.pairs.images(int(self.pairs.rows[number]))
        except (OSError, ValueError) as error:
            return str(error)
        resolution, flips = (
            self.pairs.frame_at.resolution,
            [Augmentation(flip=bool(f)) for f in range(self.flips)],
        )
        return [frame(image, resolution, flip) for image in images for flip in flips]


class StoredLatents:
    """Posteriors of the images of usable rows; ``sides`` reads them as ``ImagePairs.framed`` reads
    pixels."""

    def __init__(self, rows: Dataset, places: np.ndarray, flips: int) -> None:
        self.rows, self.places, self.flips = rows, places, flips

    def sides(self, number: int, augmentation: Augmentation) -> Sides:
        """The first and the second image of usable row ``number``, mirrored or not."""
        found = load(self.rows[int(self.places[number])]["tensors"])
        first, second = (
            self.encoded(found, side * self.flips + augmentation.flip) for side in (0, 1)
        )
        return first, second

    def encoded(self, found: dict[str, Tensor], index: int) -> Encoded:
        """One image."""
        height, width, top, left = found["places"][index].tolist()
        return Encoded(
            (height, width), (top, left), found["mean"][index].float(), found["std"][index].float()
        )


class StoredPrompts:
    """Embeddings of prompts, by their words; stands in for ``Backbone.encode_prompts``."""

    def __init__(self, rows: Dataset, prompts: Sequence[str]) -> None:
        self.rows, self.place = rows, {prompt: index for index, prompt in enumerate(prompts)}

    def __call__(self, prompts: Sequence[str]) -> Condition:
        found = [load(self.rows[self.place[prompt]]["tensors"]) for prompt in prompts]
        return {name: torch.stack([row[name] for row in found]) for name in found[0]}


def store_latents(
    pairs: ImagePairs,
    key: Key,
    root: str,
    backbone: Backbone,
    chunk: int,
    workers: int,
    accelerator: Accelerator,
) -> None:
    """Let ``pairs`` read latents instead of images. Unreadable ones are dropped, as
    ``ImagePairs.check`` drops them.

    Raises UserError where these are too many, or the disk does not take the latents.
    """
    flips = 2 if pairs.frame_at.flip else 1

    def compute(part: range) -> Iterator[dict[str, Any]]:
        pictures = DataLoader(
            Pictures(pairs, flips), batch_size=None, sampler=part, num_workers=workers
        )  # type: ignore[arg-type]
        for row in pictures:
            yield unreadable(row) if isinstance(row, str) else encode_row(row, backbone, chunk)

    rows = table(root, key, ROW, len(pairs), compute, accelerator)
    reasons = rows["unreadable"][:]
    pairs.tally.unreadable = [
        f"row {pairs.rows[n]}: {why}" for n, why in enumerate(reasons) if why is not None
    ]
    places = np.array([n for n, why in enumerate(reasons) if why is None], dtype=np.int64)
    pairs.keep(pairs.rows[places])
    pairs.sides = StoredLatents(rows, places, flips).sides


def encode_row(images: list[Framed], backbone: Backbone, chunk: int) -> dict[str, Any]:
    """The posteriors of a row's images, in the precision that the autoencoder gave them."""
    mean, std = backbone.encode_images(torch.stack([image.pixels_CHW for image in images]), chunk)
    places = torch.tensor(
        [(*image.original_size, *image.crop_top_left) for image in images], dtype=torch.int32
    )
    exact = {
        "mean": mean.to(backbone.vae.dtype).cpu(),
        "std": std.to(backbone.vae.dtype).cpu(),
        "places": places,
    }
    return {"tensors": save(exact), "unreadable": None}


def unreadable(why: str) -> dict[str, Any]:
    """The row of a pair that cannot be read."""
    return {"tensors": None, "unreadable": why}


def store_prompts(
    pairs: ImagePairs, key: Key, root: str, backbone: Backbone, accelerator: Accelerator
) -> StoredPrompts:
    """Embeddings of all prompts. Raises UserError where the disk does not take them."""
    prompts = distinct_prompts(pairs)

    def compute(part: range) -> Iterator[dict[str, Any]]:
        for first in range(part.start, part.stop, PROMPTS_AT_ONCE):
            asked = prompts[first : min(first + PROMPTS_AT_ONCE, part.stop)]
            found = {name: value.cpu() for name, value in backbone.encode_prompts(asked).items()}
            for index in range(len(asked)):
                yield {
                    "tensors": save({k: v[index].clone() for k, v in found.items()}),
                    "unreadable": None,
                }

    return StoredPrompts(table(root, key, ROW, len(prompts), compute, accelerator), prompts)


def store_encodings(
    pairs: ImagePairs,
    backbone: Backbone,
    load: Callable[[], None],
    encoders: EncoderDigests,
    settings: ImageSettings,
    accelerator: Accelerator,
) -> StoredPrompts:
    """Let ``pairs`` read latents, and return the prompts' embeddings. ``load`` brings the encoders
    where something is left to encode, and they go again unless pictures will be sampled."""
    root, prompts = settings.precompute_dir, prompts_key(pairs, encoders.text_encoder)
    latents = latents_key(pairs, settings, encoders.autoencoder)
    known = is_complete(root, latents, len(pairs)) and is_complete(
        root, prompts, len(distinct_prompts(pairs))
    )
    accelerator.wait_for_everyone()
    if not known and not backbone.encoders():
        load()
    embeddings = store_prompts(pairs, prompts, root, backbone, accelerator)
    chunk, workers = settings.vae_encode_batch_size, settings.dataloader_num_workers
    store_latents(pairs, latents, root, backbone, chunk, workers, accelerator)
    if not settings.run_validation:
        backbone.let_go()
    return embeddings
