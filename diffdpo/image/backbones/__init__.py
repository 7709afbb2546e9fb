"""ADD A BACKBONE HERE: one file with what differs, one row keyed by the ``_class_name`` of
model_index.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DiffusionPipeline
from safetensors import SafetensorError

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.encoder_files import vae_config, vae_source
from diffdpo.image.backbones.stable_diffusion import StableDiffusion
from diffdpo.image.backbones.stable_diffusion_xl import StableDiffusionXL

BACKBONES: dict[str, type[Backbone]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
}


def load_backbone(name: str, vae: str | None = None, encoders: bool = True, **hub: Any) -> Backbone:
    """The pipeline ``name`` (folder or hub id) in float32, as the family that its model_index.json
    names.

    ``encoders=False`` leaves out autoencoder and text encoders until ``load_encoders``. ``hub``
    takes revision, variant and cache_dir.

    Raises UserError where the pipeline is missing, damaged, or of a family not in the table.
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
        components = replaced_components(family, name, vae, encoders, hub)
        pipeline = family.pipeline_class.from_pretrained(
            name, **family.load_options, **components, **hub
        )
        return family(
            pipeline, pipeline.vae.config if encoders else vae_config(vae_source(name, vae, hub))
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"model {name}: cannot be loaded ({' '.join(str(error).split())[:300]})"
        ) from error


def backbone_of(pipeline: Any) -> Backbone:
    """A pipeline that is loaded already, as the family that its class names.

    The pipeline keeps its components, and its network is the one that is trained.

    Raises UserError for a family that is not in the table.
    """
    class_name = type(pipeline).__name__
    family = BACKBONES.get(class_name)
    if family is None:
        raise UserError(f"{class_name} is not supported; these are: {', '.join(BACKBONES)}")
    # A pipeline of our own around the same components: freeing encoders empties its slots, and the
    # caller's pipeline stays complete.
    own = family.pipeline_class(**{**pipeline.components, **family.load_options})
    backbone = family(own, pipeline.vae.config)
    backbone.pipeline_in_memory = pipeline
    return backbone


def load_encoders(backbone: Backbone, name: str, vae: str | None, **hub: Any) -> None:
    """Load the encoders that ``encoders=False`` left out."""
    whole = load_backbone(name, vae, **hub)
    for component in backbone.encoder_names:
        setattr(backbone.pipeline, component, getattr(whole.pipeline, component))


def replaced_components(
    family: type[Backbone], name: str, vae: str | None, encoders: bool, hub: dict[str, Any]
) -> dict:
    """Components in place of the pipeline's own: another autoencoder, or None for all encoders."""
    if not encoders:
        return dict.fromkeys(family.encoder_names)
    if vae is None:
        return {}
    source, options = vae_source(name, vae, hub)
    return {"vae": AutoencoderKL.from_pretrained(source, **options)}
