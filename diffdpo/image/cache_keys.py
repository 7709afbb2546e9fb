"""What stored latents, embeddings and reference scores depend on: the facts that find them again.

Nothing else is among the facts, so that a run with another beta, loss, rank or learning rate finds
what is there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from datasets import Dataset
from pyarrow import compute as arrow

from diffdpo.cache.keys import Key, digest
from diffdpo.image.backbones.base import Backbone, vae_dtype
from diffdpo.image.backbones.parts import text_identity, vae_identity
from diffdpo.image.noise import ForwardProcess
from diffdpo.image.pairs import ImagePairs
from diffdpo.image.settings import ImageSettings

DRAWN = [
    "seed",
    "resolution",
    "timesteps_per_pair",
    "proportion_empty_prompts",
    "noise_offset",
    "input_perturbation",
]
DRAWN += ["random_crop", "no_hflip", "mixed_precision"]
READ_UP_TO = 2048  # rows whose images are read to tell one data set from another


@dataclass(frozen=True)
class Identity:
    """What tells the encoders of this run, in their precision, from others."""

    autoencoder: str
    text_encoder: str

    @classmethod
    def of(
        cls, backbone: Backbone, name: str, vae: str | None, hub: dict[str, Any], dtype: torch.dtype
    ) -> Identity:
        """Those of the pipeline ``name``, or another autoencoder, beside a network in ``dtype``."""
        autoencoder = vae_identity(name, vae, hub)
        text = text_identity(name, backbone.encoder_parts[1:], hub)
        return cls(f"{autoencoder} {vae_dtype(dtype)}", f"{text} {dtype}")


def distinct_prompts(pairs: ImagePairs) -> list[str]:
    """What has to be encoded: every prompt once, and the empty one that dropout puts in place of
    others."""
    return list(dict.fromkeys(["", *pairs.prompts()]))


def latents_key(pairs: ImagePairs, autoencoder: str) -> Key:
    """What latents depend on; labels are not among it."""
    facts = {"data": images_digest(pairs), "autoencoder": autoencoder}
    frame_at = pairs.frame_at
    crop = {
        "resolution": str(frame_at.resolution),
        "crop": "centre",
        "flips": "both" if frame_at.flip else "none",
    }
    return Key("latents", {**facts, **crop})


def images_digest(pairs: ImagePairs) -> str:
    """Changes when the images or the choice of rows change, whatever their labels and prompts.

    Up to 2,048 rows all contents are read; of a larger set the contents of so many, evenly spread,
    and all sizes."""
    every = -(-len(pairs.rows) // READ_UP_TO)
    contents = [as_bytes(image) for row in pairs.rows[::every] for image in pairs.stored(int(row))]
    sizes = [
        stored_sizes(pairs.dataset, column) for column in (pairs.format.first, pairs.format.second)
    ]
    return digest(
        pairs.rows.tobytes(), *(np.asarray(size)[pairs.rows].tobytes() for size in sizes), *contents
    )


def as_bytes(image: Any) -> bytes:
    """A stored image's own bytes, or its name where it is a file that cannot be read."""
    if isinstance(image, dict):
        image = image["bytes"] if image.get("bytes") is not None else image["path"]
    try:
        return image if isinstance(image, bytes) else Path(image).read_bytes()
    except (OSError, TypeError):
        return str(image).encode()


def stored_sizes(dataset: Dataset, column: str) -> list[int]:
    """Bytes of every image, or the length of its path; read off the table's offsets, not off the
    images."""
    table = dataset.select_columns(column).with_format("arrow")
    found: list[int] = []
    for first in range(0, len(dataset), 1000):
        values = table[first : first + 1000].column(0)
        if pyarrow.types.is_struct(values.type):
            values = arrow.struct_field(values, "bytes")
        found += arrow.fill_null(arrow.binary_length(values), 0).to_pylist()
    return found


def prompts_key(pairs: ImagePairs, text_encoder: str) -> Key:
    """What prompt embeddings depend on."""
    return Key(
        "prompts", {"prompts": digest(*distinct_prompts(pairs)), "text encoder": text_encoder}
    )


def reference_facts(
    pairs: ImagePairs, process: ForwardProcess, identity: Identity, settings: ImageSettings
) -> dict[str, str]:
    """All that a reference score depends on, beside the reference: beta, loss, rank and rate are
    not among it."""
    # Names that begin with _ are diffusers' own notes, in an order that changes from process to
    # process.
    known = {
        name: value for name, value in process.scheduler.config.items() if not name.startswith("_")
    }
    scheduler = json.dumps(known, sort_keys=True, default=str)
    return {
        "data": digest(pairs.fingerprint, images_digest(pairs)),
        "autoencoder": identity.autoencoder,
        "text encoder": identity.text_encoder,
        "forward process": digest(scheduler, str(settings.is_turbo)),
        **{f"--{name}": str(getattr(settings, name)) for name in DRAWN},
    }
