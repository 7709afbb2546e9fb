"""What stored latents, embeddings and reference scores depend on: the facts that find them again.

Nothing else is among the facts, so that a run with another beta, loss, rank or learning rate finds
what is there.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import Dataset
from pyarrow import compute as arrow

from diffdpo.cache.keys import ENCODINGS, SCORES, Key, arithmetic, digest, network_digest
from diffdpo.image.backbones.base import Backbone, vae_dtype
from diffdpo.image.backbones.parts import text_identity, vae_identity
from diffdpo.image.noise import ForwardProcess
from diffdpo.image.pairs import ImagePairs
from diffdpo.image.settings import ImageSettings

READ_UP_TO = 2048  # rows whose images are read to tell one data set from another


@dataclass(frozen=True)
class EncoderDigests:
    """What tells the encoders of this run, in their precision and on their device, from others."""

    autoencoder: str
    text_encoder: str

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        name: str,
        vae: str | None,
        hub: dict[str, Any],
        dtype: torch.dtype,
        device: torch.device,
    ) -> EncoderDigests:
        """Those of the pipeline ``name``, or another autoencoder, beside a network in ``dtype``."""
        autoencoder = vae_identity(name, vae, hub)
        text = text_identity(name, backbone.encoder_parts[1:], hub)
        where = arithmetic(device)
        return cls(f"{autoencoder} {vae_dtype(dtype)} {where}", f"{text} {dtype} {where}")

    @classmethod
    def loaded(cls, backbone: Backbone) -> EncoderDigests:
        """Those of a pipeline that a program has in memory, told by their weights."""
        networks = [network_digest(encoder) for encoder in backbone.text_encoders()]
        tokenizers = [repr(tokenizer) for tokenizer in backbone.tokenizers()]
        return cls(network_digest(backbone.vae), digest(*networks, *tokenizers))


def distinct_prompts(pairs: ImagePairs) -> list[str]:
    """What has to be encoded: every prompt once, and the empty one that dropout puts in place of
    others."""
    return list(dict.fromkeys(["", *pairs.prompts()]))


def latents_key(pairs: ImagePairs, settings: ImageSettings, autoencoder: str) -> Key:
    """What latents depend on; labels are not among it."""
    facts = {"data": images_digest(pairs), "autoencoder": autoencoder}
    return Key.of("latents", settings, ENCODINGS, facts)


def images_digest(pairs: ImagePairs) -> str:
    """Changes when the images or the choice of rows change, whatever their labels and prompts.

    Up to 2,048 rows all contents are read; of a larger set the contents of so many, evenly spread,
    and of all images the size, of files the time of their last change as well.
    """
    every = -(-len(pairs.rows) // READ_UP_TO)
    contents = [as_bytes(image) for row in pairs.rows[::every] for image in pairs.stored(int(row))]
    columns = (pairs.format.first, pairs.format.second)
    marks = [stored_marks(pairs.dataset, column, pairs.folder) for column in columns]
    every_mark = (np.asarray(mark)[pairs.rows].tobytes() for mark in marks) if every > 1 else ()
    return digest(pairs.rows.tobytes(), *every_mark, *contents)


def as_bytes(image: Any) -> bytes:
    """A stored image's own bytes, or its name where it is a file that cannot be read."""
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    try:
        return image if isinstance(image, bytes) else Path(image).read_bytes()
    except (OSError, TypeError):
        return str(image).encode()


def stored_marks(dataset: Dataset, column: str, folder: Path | None) -> list[tuple[int, int]]:
    """(bytes, time of the last change) of every image: of one inside the table its size, read off
    the offsets and not off the images, and 0; of a file what the file system says."""
    table = dataset.select_columns(column).with_format("arrow")
    marks: list[tuple[int, int]] = []
    for first in range(0, len(dataset), 1000):
        values = table[first : first + 1000].column(0)
        paths = values if pyarrow.types.is_string(values.type) else None
        if pyarrow.types.is_struct(values.type):
            paths = arrow.struct_field(values, "path")
            values = arrow.struct_field(values, "bytes")
        none_inside = pyarrow.types.is_null(values.type)
        lengths = (
            pyarrow.nulls(len(values), "int32") if none_inside else arrow.binary_length(values)
        )
        sizes = arrow.fill_null(lengths, -1).to_pylist()
        names = [None] * len(sizes) if paths is None else paths.to_pylist()
        is_file = paths is values
        marks += [
            file_mark(name, folder) if is_file or size < 0 else (size, 0)
            for size, name in zip(sizes, names, strict=True)
        ]
    return marks


def file_mark(name: str | None, folder: Path | None) -> tuple[int, int]:
    """(bytes, nanoseconds of the last change) of a file; (-1, -1) of none."""
    try:
        status = os.stat(Path(folder or "") / str(name))
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def prompts_key(pairs: ImagePairs, text_encoder: str) -> Key:
    """What prompt embeddings depend on."""
    prompts = digest(*distinct_prompts(pairs))
    return Key("prompts", {"prompts": prompts, "text encoder": text_encoder})


def reference_key(
    pairs: ImagePairs,
    process: ForwardProcess,
    encoders: EncoderDigests,
    network: str,
    settings: ImageSettings,
) -> Key:
    """All that a reference score depends on; ``network`` is the reference's digest. Beta, loss,
    rank and rate are not among it."""
    # Names that begin with _ are diffusers' own notes, in an order that changes between processes.
    config = {k: v for k, v in process.scheduler.config.items() if not k.startswith("_")}
    facts = {
        "data": digest(pairs.fingerprint, images_digest(pairs)),
        "autoencoder": encoders.autoencoder,
        "text encoder": encoders.text_encoder,
        "forward process": digest(json.dumps(config, sort_keys=True, default=str)),
        "reference": network,
    }
    return Key.of("reference", settings, SCORES, facts)
