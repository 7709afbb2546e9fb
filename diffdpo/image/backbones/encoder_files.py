"""A pipeline and its encoders on disk or on the hub: location, configuration and version.

No network is loaded: a run whose encodings are all stored never needs one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DiffusionPipeline

from diffdpo.cache.keys import digest, files_digest
from diffdpo.errors import short
from diffdpo.image.backbones.checks import on_meta
from diffdpo.image.backbones.location import read_index
from diffdpo.image.backbones.weights import Source, told_in_one_line


def vae_source(name: str, vae: str | None, hub: dict[str, Any]) -> Source:
    """The source of the autoencoder: that of the pipeline ``name``, or the other one ``vae``."""
    if vae is None:
        return name, {"subfolder": "vae", **of_configuration(hub)}
    # Another one is a folder or hub id by itself, or lies inside the folder of a whole pipeline.
    inside = {"subfolder": "vae"} if (Path(vae) / "vae").is_dir() else {}
    return vae, {**inside, "cache_dir": hub.get("cache_dir")}


def vae_config(kind: Any, source: Source) -> Any:
    """The configuration of an autoencoder, with the defaults of its class where the file has
    none."""
    name, options = source
    with told_in_one_line(f"vae of {short(name)}"):
        raw = kind.load_config(name, **options)
    return on_meta(kind, raw, "vae").config


def vae_identity(name: str, vae: str | None, hub: dict[str, Any]) -> str:
    """A digest of the autoencoder's files, or its commit on the hub."""
    source, options = vae_source(name, vae, hub)
    folder = Path(source) / options.get("subfolder", "")
    if folder.is_dir():
        return files_digest(folder)
    return at_commit(AutoencoderKL, source, hub, options)


def text_identity(name: str, family: Any, hub: dict[str, Any]) -> str:
    """A digest of all that embeddings of prompts depend on: the pipeline's settings and files, but
    for network, autoencoder and scheduler; or its commit on the hub."""
    if not Path(name).is_dir():
        return at_commit(DiffusionPipeline, name, hub, of_configuration(hub))
    without = {"vae", "scheduler", *family.load_options}
    # By the beginning of the name: some pipelines have two networks.
    index = {
        part: entry
        for part, entry in sorted(read_index(name, hub).items())
        if not part.startswith(("_", family.part)) and part not in without
    }
    folders = [folder for part in index if (folder := Path(name) / part).is_dir()]
    return digest(json.dumps(index), *map(files_digest, folders))


def whole_identity(name: str, hub: dict[str, Any]) -> str:
    """A digest of all files of a pipeline, or its commit on the hub."""
    if not Path(name).is_dir():
        return at_commit(DiffusionPipeline, name, hub, of_configuration(hub))
    index = read_index(name, hub)
    folders = [folder for part in sorted(index) if (folder := Path(name) / part).is_dir()]
    return digest(json.dumps(index, sort_keys=True), *map(files_digest, folders))


def of_configuration(hub: dict[str, Any]) -> dict[str, Any]:
    """The options of the hub that loading a configuration takes: the variant is one of weights."""
    return {name: value for name, value in hub.items() if name != "variant"}


def at_commit(kind: Any, name: str, hub: dict[str, Any], options: dict[str, Any]) -> str:
    """A hub id with its present commit: the name alone would not change with the files."""
    _, commit = kind.load_config(name, return_commit_hash=True, **options)
    return f"{name} at {commit}, variant {hub.get('variant')}"
