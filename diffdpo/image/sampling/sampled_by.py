"""What pictures were sampled by: facts without which two pictures of one seed differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffdpo.cache.keys import digest, network_digest
from diffdpo.engine.digests import file_digest
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.encoder_files import text_identity, vae_identity
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.sampling.sample import PictureSettings

# The folders of a result that hold the weights of its network.
PARTS = ("", "unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")


def sampler(backbone: Backbone, settings: PictureSettings) -> dict[str, Any]:
    """How pictures are sampled, in words that are printed."""
    scheduler = backbone.pipeline.scheduler
    options = json.dumps(dict(scheduler.config), sort_keys=True, default=str)
    return {
        "sampler": type(scheduler).__name__.removesuffix("Scheduler"),
        "steps": settings.steps,
        "guidance": settings.guidance,
        "resolution": settings.resolution,
        "precision": str(backbone.network.dtype).removeprefix("torch."),
        "frames": backbone.num_frames,
        "scheduler options": digest(options),
    }


def model(backbone: Backbone, settings: EvaluateSettings) -> dict[str, Any]:
    """The digests of the model that policies are built on, and what it is told.

    To be asked for before a policy is loaded into it.
    """
    name, hub = str(settings.pretrained_model_name_or_path), settings.hub_options
    return {
        "network": network_digest(backbone.network),
        "autoencoder": vae_identity(name, settings.pretrained_vae_model_name_or_path, hub),
        "text encoders": text_identity(name, backbone, hub),
        "length of text": settings.max_sequence_length,
        "turbo": settings.is_turbo,
        "base precision": settings.base_precision,
    }


def weights(name: str | None) -> str | None:
    """The digest of a result's weights: a folder's or a file's; of a hub id the id; None of
    none."""
    path = Path(name or "")
    if not name or not path.exists():
        return name
    if path.is_file():
        return file_digest(path)[:16]
    files = [file for part in PARTS for file in sorted((path / part).glob("*.safetensors"))]
    files += [file for part in PARTS for file in sorted((path / part).glob("config.json"))]
    # The record of its training set is no weight.
    kept = [file for file in files if file.name != "trained_on.safetensors"]
    return digest(*(f"{file.relative_to(path)} {file_digest(file)}" for file in kept))
