"""The keys of stored latents, embeddings and reference scores: all facts that they depend on.

Nothing else is among the facts, so that a run with another beta, loss, rank or learning rate reads
the same tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from diffdpo.cache.keys import ENCODINGS, SCORES, Key, arithmetic, digest, network_digest
from diffdpo.image.backbones.base import Backbone, vae_dtype
from diffdpo.image.backbones.encoder_files import text_identity, vae_identity
from diffdpo.image.backbones.memory import registered
from diffdpo.image.caching.encoding import flips_of, images_at_once
from diffdpo.image.pictures.marks import evenly
from diffdpo.image.process.noise import Process
from diffdpo.image.reading.pairs import ImagePairs
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
        text = text_identity(name, backbone, hub) + conditions(backbone)
        kind = arithmetic(device)
        return cls(f"{autoencoder} {vae_dtype(dtype)} {kind}", f"{text} {dtype} {kind}")

    @classmethod
    def loaded(cls, backbone: Backbone) -> EncoderDigests:
        """The digests for a pipeline in memory, from its weights."""
        networks = [network_digest(encoder) for encoder in backbone.text_encoders()]
        tokenizers = [
            f"{tokenizer!r} {getattr(tokenizer, 'chat_template', None)}"
            for tokenizer in backbone.tokenizers()
        ]
        text = digest(*networks, *tokenizers, repr(registered(backbone.pipeline)))
        return cls(network_digest(backbone.vae), text + conditions(backbone))


def conditions(backbone: Backbone) -> str:
    """What else changes embeddings: the pipeline's options, and the versions of the packages with
    which it changes prompts where it finds them."""
    found = [import_module(name) for name in backbone.cleans_with if find_spec(name)]
    cleaners = [f"{package.__name__} {package.__version__}" for package in found]
    return "".join(f" {one}" for one in (*backbone.text_options.items(), *cleaners))


def distinct_prompts(pairs: ImagePairs) -> list[str]:
    """The prompts to encode: each once, and the empty one, which prompt dropout uses."""
    return pairs.once("prompts", lambda: list(dict.fromkeys(["", *pairs.prompts()])))


def latents_key(pairs: ImagePairs, settings: ImageSettings, autoencoder: str) -> Key:
    """The key of latents. Labels and prompts do not change them, and are not in it."""
    at_once = images_at_once(flips_of(pairs), settings.vae_encode_batch_size)
    facts = {"data": images_digest(pairs), "autoencoder": autoencoder}
    facts["images encoded at once"] = str(at_once)
    return Key.of("latents", settings, ENCODINGS, facts)


def images_digest(pairs: ImagePairs) -> str:
    """A digest of the images and of the choice of rows, without labels and prompts.

    Up to about 2,048 rows all contents are read. Of a larger set the contents of so many, evenly
    spread, and the sizes of all images are; of files also the time of their last change.
    """
    return pairs.once("images", lambda: read_digest(pairs))


def read_digest(pairs: ImagePairs) -> str:
    """The same, read from the data."""
    read = evenly(pairs.rows, READ_UP_TO)
    contents = [one for row in read for one in pairs.stored.contents(int(row))]
    every = pairs.stored.marks(pairs.rows) if len(read) < len(pairs.rows) else []
    marks = [np.asarray(column).tobytes() for column in every]
    return digest(pairs.rows.tobytes(), *marks, *contents)


def prompts_key(pairs: ImagePairs, text_encoder: str) -> Key:
    """The key of prompt embeddings."""
    prompts = digest(*distinct_prompts(pairs))
    return Key("prompts", {"prompts": prompts, "text encoder": text_encoder})


def reference_key(
    pairs: ImagePairs,
    process: Process,
    encoders: EncoderDigests,
    network: str,
    settings: ImageSettings,
) -> Key:
    """The key of reference scores; ``network`` is the digest of the reference.

    The number of draws is not in it: the scores are those of the visits of a run in their order, of
    which fewer are the beginning of more.
    """
    facts = {
        "data": digest(pairs.fingerprint, images_digest(pairs)),
        "autoencoder": encoders.autoencoder,
        "text encoder": encoders.text_encoder,
        "forward process": digest(process.facts()),
        "reference": network,
        "order": "by visit",
    }
    return Key.of("reference", settings, SCORES, facts)
