"""The encoders of a pipeline on disk: where they lie, and what tells one version from another.
Nothing is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline

from diffdpo.cache.keys import digest, files_digest

Place = tuple[str, dict[str, Any]]  # a folder or hub id, and the options to load from it


def vae_place(name: str, vae: str | None, hub: dict[str, Any]) -> Place:
    """The autoencoder of the pipeline ``name``, or another: alone, or inside a pipeline's
    folder."""
    if vae is None:
        return name, {"subfolder": "vae", **{k: v for k, v in hub.items() if k != "variant"}}
    inside = {"subfolder": "vae"} if (Path(vae) / "vae").is_dir() else {}
    return vae, {**inside, "cache_dir": hub.get("cache_dir")}


def vae_config(place: Place) -> Any:
    """The autoencoder's configuration with the defaults of its class: old files leave them out."""
    name, options = place
    with torch.device("meta"):
        return AutoencoderKL.from_config(AutoencoderKL.load_config(name, **options)).config


def vae_identity(name: str, vae: str | None, hub: dict[str, Any]) -> str:
    """Changes when the autoencoder's files change."""
    where, options = vae_place(name, vae, hub)
    folder = Path(where) / options.get("subfolder", "")
    if folder.is_dir():
        return files_digest(folder)
    return at_commit(AutoencoderKL, where, options, hub)


def text_identity(name: str, parts: tuple[str, ...], hub: dict[str, Any]) -> str:
    """Changes when the files of the text encoders or of their tokenizers change."""
    if Path(name).is_dir():
        folders = [
            Path(name) / part.replace("text_encoder", kind) for part in parts for kind in KINDS
        ]
        return digest(*map(files_digest, folders))
    return at_commit(DiffusionPipeline, name, {k: v for k, v in hub.items() if k != "variant"}, hub)


KINDS = ("text_encoder", "tokenizer")


def at_commit(kind: Any, name: str, options: dict[str, Any], hub: dict[str, Any]) -> str:
    """A hub id with the commit that its name stands for now."""
    _, commit = kind.load_config(name, return_commit_hash=True, **options)
    return f"{name} at {commit}, variant {hub.get('variant')}"
