"""ADD A BACKBONE HERE: one file with what differs, one row keyed by the ``_class_name`` of model_index.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors import SafetensorError

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.stable_diffusion import StableDiffusion
from diffdpo.image.backbones.stable_diffusion_xl import StableDiffusionXL

BACKBONES: dict[str, type[Backbone]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
}


def load_backbone(name: str, vae: str | None = None, **hub: Any) -> Backbone:
    """The pipeline ``name`` (folder or hub id) in float32, as the family that its model_index.json names.

    ``hub`` takes revision, variant and cache_dir. Raises UserError where it is missing, damaged, or of a family
    that is not in the table.
    """
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"model {name}: no such folder")
    try:
        class_name = DiffusionPipeline.load_config(name, **{k: v for k, v in hub.items() if k != "variant"})[
            "_class_name"
        ]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model {name}: no pipeline with a model_index.json there or on the hub") from error
    family = BACKBONES.get(class_name)
    if family is None:
        raise UserError(f"model {name}: {class_name} is not supported; these are: {', '.join(BACKBONES)}")
    try:
        parts = {"vae": load_vae(vae, **hub)} if vae else {}
        return family(family.pipeline_class.from_pretrained(name, **family.load_options, **parts, **hub))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"model {name}: cannot be loaded ({' '.join(str(error).split())[:300]})") from error


def load_vae(name: str, **hub: Any) -> AutoencoderKL:
    """An autoencoder of its own, or the one inside a pipeline's folder."""
    inside = {"subfolder": "vae"} if (Path(name) / "vae").is_dir() else {}
    return AutoencoderKL.from_pretrained(name, **inside, cache_dir=hub.get("cache_dir"))
