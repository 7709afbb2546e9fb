"""The keys of stored latents, embeddings and reference scores: all facts that they depend on.

Nothing else is among the facts, so that a run with another beta, loss, rank or learning rate reads
the same tables.
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
from diffdpo.image.backbones.encoder_files import text_identity, vae_identity
from diffdpo.image.noise import ForwardProcess
from diffdpo.image.pairs import ImagePairs
from diffdpo.image.settings import ImageSettings

READ_UP_TO = 2048  # rows whose images are read, to tell data sets apart without reading them whole


@dataclass(frozen=True)
class EncoderDigests:
    """Digests of the encoders of this run, in their precision and on their kind of device."""

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
        """The digests for the pipeline ``name``, from its files; ``vae`` is another autoencoder."""
        autoencoder = vae_identity(name, vae, hub)
        text = text_identity(name, backbone.encoder_names[1:], hub)
        kind = arithmetic(device)
        return cls(f"{autoencoder} {vae_dtype(dtype)} {kind}", f"{text} {dtype} {kind}")

    @classmethod
    def loaded(cls, backbone: Backbone) -> EncoderDigests:
        """The digests for a pipeline in memory, from its weights."""
        networks = [network_digest(encoder) for encoder in backbone.text_encoders()]
        tokenizers = [repr(tokenizer) for tokenizer in backbone.tokenizers()]
        return cls(network_digest(backbone.vae), digest(*networks, *tokenizers))


def distinct_prompts(pairs: ImagePairs) -> list[str]:
    """The prompts to encode: each once, and the empty one, which prompt dropout uses."""
    return list(dict.fromkeys(["", *pairs.prompts()]))


def latents_key(pairs: ImagePairs, settings: ImageSettings, autoencoder: str) -> Key:
    """The key of latents. Labels and prompts do not change them, and are not in it."""
    facts = {"data": images_digest(pairs), "autoencoder": autoencoder}
    return Key.of("latents", settings, ENCODINGS, facts)


def images_digest(pairs: ImagePairs) -> str:
    """A digest of the images and of the choice of rows, without labels and prompts.

    Up to about 2,048 rows all contents are read. Of a larger set the contents of so many, evenly
    spread, and the sizes of all images are; of files also the time of their last change.
    """
    every = -(-len(pairs.rows) // READ_UP_TO)
    contents = [as_bytes(image) for row in pairs.rows[::every] for image in pairs.stored(int(row))]
    columns = (pairs.format.first, pairs.format.second)
    marks = [stored_marks(pairs.dataset, column, pairs.folder) for column in columns]
    every_mark = (np.asarray(mark)[pairs.rows].tobytes() for mark in marks) if every > 1 else ()
    return digest(pairs.rows.tobytes(), *every_mark, *contents)


def as_bytes(image: Any) -> bytes:
    """The bytes of a stored image, or its name where it is a file that cannot be read."""
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    try:
        return image if isinstance(image, bytes) else Path(image).read_bytes()
    except (OSError, TypeError):
        return str(image).encode()


def stored_marks(dataset: Dataset, column: str, folder: Path | None) -> list[tuple[int, int]]:
    """(size in bytes, time of the last change) of each image; the time is 0 inside a table."""
    # Arrow knows sizes from its offsets: no image is read, not even from a table of terabytes.
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
    """(size in bytes, nanoseconds of the last change) of a file; (-1, -1) where there is none."""
    try:
        status = os.stat(Path(folder or "") / str(name))
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def prompts_key(pairs: ImagePairs, text_encoder: str) -> Key:
    """The key of prompt embeddings."""
    prompts = digest(*distinct_prompts(pairs))
    return Key("prompts", {"prompts": prompts, "text encoder": text_encoder})


def reference_key(
    pairs: ImagePairs,
    process: ForwardProcess,
    encoders: EncoderDigests,
    network: str,
    settings: ImageSettings,
) -> Key:
    """The key of reference scores; ``network`` is the digest of the reference."""
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
