"""ADD A BACKBONE HERE: one file with what differs, one row keyed by the ``_class_name`` of
model_index.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors import SafetensorError

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.parts import vae_config, vae_place
from diffdpo.image.backbones.stable_diffusion import StableDiffusion
from diffdpo.image.backbones.stable_diffusion_xl import StableDiffusionXL

BACKBONES: dict[str, type[Backbone]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
}


def load_backbone(name: str, vae: str | None = None, encoders: bool = True, **hub: Any) -> Backbone:
    """The pipeline ``name`` (folder or hub id) in float32, as the family that its model_index.json
    names.

    ``encoders=False`` leaves autoencoder and text encoders on the disk until ``load_encoders``.
    ``hub`` takes revision, variant and cache_dir. Raises UserError where it is missing, damaged, or
    of a family that is not in the table.
    """
    if name.startswith((".", "/", "~")) and not Path(name).is_dir():
        raise UserError(f"model {name}: no such folder")
    try:
        class_name = DiffusionPipeline.load_config(
            name, **{k: v for k, v in hub.items() if k != "variant"}
        )["_class_name"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"model {name}: no pipeline with a model_index.json there or on the hub"
        ) from error
    family = BACKBONES.get(class_name)
    if family is None:
        raise UserError(
            f"model {name}: {class_name} is not supported; these are: {', '.join(BACKBONES)}"
        )
    try:
        parts = load_parts(family, name, vae, encoders, hub)
        pipeline = family.pipeline_class.from_pretrained(
            name, **family.load_options, **parts, **hub
        )
        return family(
            pipeline, pipeline.vae.config if encoders else vae_config(vae_place(name, vae, hub))
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"model {name}: cannot be loaded ({' '.join(str(error).split())[:300]})"
        ) from error


def backbone_of(pipeline: Any) -> Backbone:
    """A pipeline that is loaded already, as the family that its class names. The pipeline keeps its
    parts, and the network among them is the one that is trained.

    Raises UserError for a family that is not in the table.
    """
    class_name = type(pipeline).__name__
    family = BACKBONES.get(class_name)
    if family is None:
        raise UserError(f"{class_name} is not supported; these are: {', '.join(BACKBONES)}")
    own = family.pipeline_class(**{**pipeline.components, **family.load_options})
    backbone = family(own, pipeline.vae.config)
    backbone.given = pipeline
    return backbone


def load_encoders(backbone: Backbone, name: str, vae: str | None, **hub: Any) -> None:
    """Load what ``encoders=False`` left out."""
    whole = load_backbone(name, vae, **hub)
    for part in backbone.encoder_parts:
        setattr(backbone.pipeline, part, getattr(whole.pipeline, part))


def load_parts(
    family: type[Backbone], name: str, vae: str | None, encoders: bool, hub: dict[str, Any]
) -> dict:
    """What stands in for parts of the pipeline ``name``: another autoencoder, or nothing for all
    encoders."""
    if not encoders:
        return dict.fromkeys(family.encoder_parts)
    if vae is None:
        return {}
    where, options = vae_place(name, vae, hub)
    return {"vae": AutoencoderKL.from_pretrained(where, **options)}
