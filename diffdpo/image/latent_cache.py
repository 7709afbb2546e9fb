"""Latents and prompt embeddings on disk, in place of autoencoder and text encoders.

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
from diffdpo.engine.console import say
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.conditions import Condition, joined, rows_of
from diffdpo.image.cache_keys import EncoderDigests, distinct_prompts, latents_key, prompts_key
from diffdpo.image.needs import gib, latents_size, size_of
from diffdpo.image.pairs import BothImages, ImagePairs
from diffdpo.image.pixels import Augmentation, EncodedImage, PixelImage, frame
from diffdpo.image.settings import ImageSettings

# A row holds its tensors in the format of safetensors, or the reason why it has none.
ROW = Features({"tensors": Value("binary"), "unreadable": Value("string")})
PROMPTS_AT_ONCE = 16


class Pictures(TorchDataset):
    """Both images of every usable row in every flip, as pixels; or the reason for having none."""

    def __init__(self, pairs: ImagePairs, flips: int) -> None:
        self.pairs, self.flips = pairs, flips

    def __getitem__(self, number: int) -> list[PixelImage] | str:
        try:
            images = self.pairs.images(int(self.pairs.rows[number]))
        except (OSError, ValueError) as error:
            return str(error)  # a worker cannot raise it without ending the run
        resolution, flips = (
            self.pairs.framing.resolution,
            [Augmentation(flip=bool(f)) for f in range(self.flips)],
        )
        return [frame(image, resolution, flip) for image in images for flip in flips]


class StoredLatents:
    """Stored posteriors of images; ``sides`` stands in for ``ImagePairs.framed``.

    ``indices`` are the positions of the readable rows in the table.
    """

    def __init__(self, rows: Dataset, indices: np.ndarray, flips: int) -> None:
        self.rows, self.indices, self.flips = rows, indices, flips

    def sides(self, number: int, augmentation: Augmentation) -> BothImages:
        """The first and the second image of usable row ``number``, mirrored or not."""
        tensors = load(self.rows[int(self.indices[number])]["tensors"])
        first, second = (
            self.encoded(tensors, side * self.flips + augmentation.flip) for side in (0, 1)
        )
        return first, second

    def encoded(self, tensors: dict[str, Tensor], index: int) -> EncodedImage:
        """The image at ``index`` of a row: first side in every flip, then second side."""
        height, width, top, left = tensors["sizes_and_crops"][index].tolist()
        return EncodedImage(
            (height, width),
            (top, left),
            tensors["mean"][index].float(),
            tensors["std"][index].float(),
        )


class StoredPrompts:
    """Stored embeddings of prompts; stands in for ``Backbone.encode_prompts``."""

    def __init__(self, rows: Dataset, prompts: Sequence[str]) -> None:
        self.rows, self.index_of = rows, {prompt: index for index, prompt in enumerate(prompts)}

    def __call__(self, prompts: Sequence[str]) -> Condition:
        return joined([load(self.rows[self.index_of[prompt]]["tensors"]) for prompt in prompts])


def store_latents(
    pairs: ImagePairs,
    key: Key,
    root: str,
    backbone: Backbone,
    chunk: int,
    workers: int,
    accelerator: Accelerator,
) -> None:
    """Store latents, and let ``pairs`` read them instead of images.

    Pairs with unreadable images are dropped, as by ``ImagePairs.check``.

    Raises UserError where these are too many, or the disk does not take the latents.
    """
    flips = 2 if pairs.framing.flip else 1

    def compute(span: range) -> Iterator[dict[str, Any]]:
        # Workers decode images while this process runs the autoencoder.
        pictures = DataLoader(
            Pictures(pairs, flips), batch_size=None, sampler=span, num_workers=workers
        )  # type: ignore[arg-type]
        for row in pictures:
            yield unreadable(row) if isinstance(row, str) else encode_row(row, backbone, chunk)

    rows = table(root, key, ROW, len(pairs), compute, accelerator)
    reasons = rows["unreadable"][:]
    pairs.tally.unreadable = [
        f"{pairs.named(int(pairs.rows[n]))}: {reason}"
        for n, reason in enumerate(reasons)
        if reason is not None
    ]
    readable = [n for n, reason in enumerate(reasons) if reason is None]
    indices = np.array(readable, dtype=np.int64)
    pairs.keep(pairs.rows[indices])
    pairs.sides = StoredLatents(rows, indices, flips).sides


def encode_row(images: list[PixelImage], backbone: Backbone, chunk: int) -> dict[str, Any]:
    """The table row with the posteriors of a pair's images."""
    # The posterior, not a sample of it: every visit draws its own. And in the autoencoder's
    # precision, from which nothing is lost: bfloat16 takes half the disk.
    mean, std = backbone.encode_images(torch.stack([image.pixels_CHW for image in images]), chunk)
    sizes_and_crops = torch.tensor(
        [(*image.original_size, *image.crop_top_left) for image in images], dtype=torch.int32
    )
    exact = {
        "mean": mean.to(backbone.vae.dtype).cpu(),
        "std": std.to(backbone.vae.dtype).cpu(),
        "sizes_and_crops": sizes_and_crops,
    }
    return {"tensors": save(exact), "unreadable": None}


def unreadable(reason: str) -> dict[str, Any]:
    """The table row of a pair that cannot be read."""
    return {"tensors": None, "unreadable": reason}


def store_prompts(
    pairs: ImagePairs, key: Key, root: str, backbone: Backbone, accelerator: Accelerator
) -> StoredPrompts:
    """Store the embeddings of all prompts. Raises UserError where the disk does not take them."""
    prompts = distinct_prompts(pairs)

    def compute(span: range) -> Iterator[dict[str, Any]]:
        for first in range(span.start, span.stop, PROMPTS_AT_ONCE):
            chunk = prompts[first : min(first + PROMPTS_AT_ONCE, span.stop)]
            for row in rows_of(backbone.encode_prompts(chunk)):
                exact = {name: value.cpu().clone() for name, value in row.items()}
                yield {"tensors": save(exact), "unreadable": None}

    return StoredPrompts(table(root, key, ROW, len(prompts), compute, accelerator), prompts)


def announce(what: str, count: int) -> None:
    """Say how much disk a table will take, before it is written."""
    say(f"{what:<12} about {gib(count)} GiB of disk")


def store_encodings(
    pairs: ImagePairs,
    backbone: Backbone,
    load: Callable[[Sequence[str]], None],
    encoders: EncoderDigests,
    settings: ImageSettings,
    accelerator: Accelerator,
) -> StoredPrompts:
    """Let ``pairs`` read stored latents; returns the stored embeddings of their prompts.

    Text encoders come and go before the autoencoder does, so that only one of the two is in memory.
    ``load`` loads the components of these names, and is called only for what is not stored yet.
    Where pictures will be sampled, those that are loaded stay.
    """
    autoencoder, *texts = backbone.encoder_names

    def done(names: Sequence[str]) -> None:
        if not settings.run_validation:
            backbone.free_encoders(names)

    root, prompts = settings.precompute_dir, prompts_key(pairs, encoders.text_encoder)
    is_stored = is_complete(root, prompts, len(distinct_prompts(pairs)), accelerator)
    if not is_stored and not backbone.text_encoders():
        load(texts)
    if not is_stored:
        (row,) = rows_of(backbone.encode_prompts([""]))
        count = len(distinct_prompts(pairs))
        announce("prompts", count * sum(map(size_of, row.values())))
    embeddings = store_prompts(pairs, prompts, root, backbone, accelerator)
    done(texts)
    latents = latents_key(pairs, settings, encoders.autoencoder)
    is_stored = is_complete(root, latents, len(pairs), accelerator)
    if not is_stored and not backbone.vae:
        load([autoencoder])
    if not is_stored:
        itemsize = backbone.vae.dtype.itemsize
        announce("latents", latents_size(backbone, settings, len(pairs), itemsize))
    chunk, workers = settings.vae_encode_batch_size, settings.workers_on(accelerator.device.type)
    store_latents(pairs, latents, root, backbone, chunk, workers, accelerator)
    done([autoencoder])
    return embeddings
