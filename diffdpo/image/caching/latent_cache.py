"""Latents and prompt embeddings on disk, in place of autoencoder and text encoders.

Shapes: ``F`` flips (as it is, mirrored), two sides (first and second image of a row), latents
``CHW``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Value
from safetensors.torch import load, save
from torch import Tensor

from diffdpo.batched import batched
from diffdpo.cache.keys import Key
from diffdpo.cache.shards import UNKNOWN, Cost
from diffdpo.cache.tables import OnePass, is_complete, table
from diffdpo.data.cells import BadImage
from diffdpo.engine.accelerator import DTYPES
from diffdpo.image.backbones.base import Backbone, vae_dtype
from diffdpo.image.backbones.conditions import Condition, joined, rows_of
from diffdpo.image.caching.cache_keys import (
    EncoderDigests,
    distinct_prompts,
    latents_key,
    prompts_key,
)
from diffdpo.image.caching.encoding import encoded_rows, flips_of
from diffdpo.image.needs import ITEMS, latents_size, size_of
from diffdpo.image.pictures.pixels import Augmentation, EncodedImage
from diffdpo.image.reading.pairs import CENTRE, CHECK_UP_TO, BothImages, ImagePairs
from diffdpo.image.settings import ImageSettings

# A row holds its tensors in the format of safetensors, or the reason why it has none.
ROW = Features({"tensors": Value("binary"), "unreadable": Value("string")})
PROMPTS_AT_ONCE = 16


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
    settings: ImageSettings,
    accelerator: Accelerator,
    cost: Cost,
) -> None:
    """Store latents, and let ``pairs`` read them instead of images.

    Pairs with unreadable images are dropped, as by ``ImagePairs.check``.

    Raises UserError where these are too many, or the disk does not take the latents.
    """
    flips = flips_of(pairs)
    chunk, workers = settings.vae_encode_batch_size, settings.workers_on(accelerator.device.type)
    one_pass = OnePass(partial(encoded_rows, pairs, flips, backbone, chunk, workers))
    rows = table(root, key, ROW, len(pairs), one_pass, accelerator, cost=cost)
    reasons = rows["unreadable"][:]
    if pairs.beside.columns and len(pairs) <= CHECK_UP_TO:
        every = StoredLatents(rows, np.arange(len(rows)), flips)
        reasons = [reason or flaw_beside(pairs, n, every) for n, reason in enumerate(reasons)]
    pairs.tally.unreadable = [
        f"{pairs.named(int(pairs.rows[n]))}: {reason}"
        for n, reason in enumerate(reasons)
        if reason is not None
    ]
    readable = [n for n, reason in enumerate(reasons) if reason is None]
    indices = np.array(readable, dtype=np.int64)
    # The same array where all are there: what is known of the rows is known by it.
    pairs.keep(pairs.rows if len(indices) == len(pairs.rows) else pairs.rows[indices])
    pairs.sides = StoredLatents(rows, indices, flips).sides


def flaw_beside(pairs: ImagePairs, number: int, stored: StoredLatents) -> str | None:
    """Why what usable row ``number`` has beside its pictures cannot be read, as ``pairs.check``
    finds it; None where it can."""
    try:
        pictures = stored.sides(number, CENTRE)
        pairs.beside.of(int(pairs.rows[number]), pictures, pairs.framing, CENTRE)
    except BadImage as error:
        return str(error)
    return None


def latents_cost(backbone: Backbone, settings: ImageSettings, dtype: torch.dtype) -> Cost:
    """What the latents of a pair take, by an autoencoder in ``dtype``."""
    halves = [] if settings.no_hflip else ["--no_hflip"]
    halves += ["--mixed_precision bf16"] if dtype == torch.float32 else []
    advice = "half of it with " + " or ".join(halves) if halves else ""
    flips = 1 if settings.no_hflip else 2
    count = latents_size(backbone, settings, 1, dtype.itemsize)
    return Cost(count, ITEMS * flips, advice)


def store_prompts(
    prompts: Sequence[str],
    key: Key,
    root: str,
    backbone: Backbone,
    accelerator: Accelerator,
    cost: Cost,
) -> StoredPrompts:
    """Store the embeddings of all prompts. Raises UserError where the disk does not take them."""

    def compute(span: range) -> Iterator[dict[str, Any]]:
        for some in batched(prompts[span.start : span.stop], PROMPTS_AT_ONCE):
            for row in rows_of(backbone.encode_prompts(some)):
                exact = {name: value.cpu().clone() for name, value in row.items()}
                yield {"tensors": save(exact), "unreadable": None}

    rows = table(root, key, ROW, len(prompts), compute, accelerator, cost=cost)
    return StoredPrompts(rows, prompts)


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

    root, prompts = settings.precompute_dir, distinct_prompts(pairs)
    key = prompts_key(pairs, encoders.text_encoder)
    cost = UNKNOWN
    if not is_complete(root, key, len(prompts), accelerator):
        if not backbone.text_encoders():
            load(texts)
        (row,) = rows_of(backbone.encode_prompts([""]))
        cost = Cost(sum(map(size_of, row.values())), 1)
    embeddings = store_prompts(prompts, key, root, backbone, accelerator, cost)
    done(texts)
    key = latents_key(pairs, settings, encoders.autoencoder)
    cost = latents_cost(backbone, settings, vae_dtype(DTYPES[settings.mixed_precision or "no"]))
    if not is_complete(root, key, len(pairs), accelerator, cost=cost) and not backbone.vae:
        load([autoencoder])
    store_latents(pairs, key, root, backbone, settings, accelerator, cost)
    done([autoencoder])
    return embeddings
