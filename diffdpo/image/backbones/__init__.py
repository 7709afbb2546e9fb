"""ADD A BACKBONE HERE: one file with what differs, one row keyed by the ``_class_name`` of
model_index.json."""

from __future__ import annotations

from typing import Any

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.location import local_folder, read_index
from diffdpo.image.backbones.memory import check_in_memory
from diffdpo.image.backbones.parts import Location, check_embeddings, load_parts
from diffdpo.image.backbones.stable_diffusion import StableDiffusion
from diffdpo.image.backbones.stable_diffusion_xl import StableDiffusionXL
from diffdpo.image.backbones.weights import told_in_one_line

BACKBONES: dict[str, type[Backbone]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
}


def load_backbone(name: str, vae: str | None = None, encoders: bool = True, **hub: Any) -> Backbone:
    """The pipeline ``name`` (folder or hub id) in float32, as the family that its model_index.json
    names.

    ``encoders=False`` leaves out autoencoder and text encoders until ``load_encoders``. ``hub``
    takes revision, variant and cache_dir.

    Raises UserError where the pipeline is missing, damaged, of a family or with a scheduler that is
    not in the tables, or where its parts do not fit each other.
    """
    index = read_index(name, hub)
    try:
        family = family_of(index["_class_name"])
        folder = local_folder(family, name, [] if encoders else list(family.encoder_names), hub)
        parts, vae_config = load_parts(family, Location(name, index, folder, vae, hub), encoders)
        with told_in_one_line("pipeline"):
            pipeline = family.pipeline_class.from_pretrained(
                folder, **family.load_options, **parts, use_safetensors=True
            )
        backbone = family(pipeline, vae_config)
        if encoders:
            check_embeddings(backbone)
    except UserError as error:
        raise UserError(*(f"model {name}: {line}" for line in error.mistakes)) from error
    return backbone


def family_of(class_name: str) -> type[Backbone]:
    """The row of the table. Raises UserError for a pipeline class that is not in it."""
    family = BACKBONES.get(class_name)
    if family is None:
        raise UserError(f"{class_name} is not supported; these are: {', '.join(BACKBONES)}")
    return family


def backbone_of(pipeline: Any) -> Backbone:
    """A pipeline that is loaded already, as the family that its class names.

    The pipeline keeps its components, and its network is the one that is trained.

    Raises UserError for a family or a scheduler that is not in the tables, and for parts that do
    not fit each other.
    """
    family = family_of(type(pipeline).__name__)
    check_in_memory(family, pipeline)
    # A pipeline of our own around the same components: freeing encoders empties its slots, and the
    # caller's pipeline stays complete.
    own = family.pipeline_class(**{**pipeline.components, **family.load_options})
    backbone = family(own, pipeline.vae.config)
    check_embeddings(backbone)
    backbone.pipeline_in_memory = pipeline
    return backbone


def load_encoders(backbone: Backbone, name: str, vae: str | None, **hub: Any) -> None:
    """Load the encoders that ``encoders=False`` left out."""
    whole = load_backbone(name, vae, **hub)
    for component in backbone.encoder_names:
        setattr(backbone.pipeline, component, getattr(whole.pipeline, component))
