"""ADD A BACKBONE HERE: one file with what differs, one row keyed by the ``_class_name`` of
model_index.json; and a tiny pipeline in ``tests/families``, which then meets all checks."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.location import local_folder, read_index
from diffdpo.image.backbones.memory import check_in_memory, registered
from diffdpo.image.backbones.parts import Location, check_embeddings, load_parts
from diffdpo.image.backbones.weights import told_in_one_line

# Module and class. Only the family that is used is imported: each brings its text encoders along.
BACKBONES = {
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("stable_diffusion_xl", "StableDiffusionXL"),
    "StableDiffusion3Pipeline": ("stable_diffusion_3", "StableDiffusion3"),
    "FluxPipeline": ("flux", "Flux"),
    "ZImagePipeline": ("z_image", "ZImage"),
    "QwenImagePipeline": ("qwen_image", "QwenImage"),
    "Krea2Pipeline": ("krea_2", "Krea2"),
    "Flux2KleinPipeline": ("flux_2_klein", "Flux2Klein"),
    "Flux2Pipeline": ("flux_2", "Flux2"),
    "SanaPipeline": ("sana", "Sana"),
    "Lumina2Pipeline": ("lumina2", "Lumina2"),
    "AuraFlowPipeline": ("auraflow", "AuraFlow"),
    "CogView4Pipeline": ("cogview4", "CogView4"),
    "PixArtSigmaPipeline": ("pixart_sigma", "PixArtSigma"),
    "HunyuanDiTPipeline": ("hunyuan_dit", "HunyuanDiT"),
    "ChromaPipeline": ("chroma", "Chroma"),
    "WanPipeline": ("wan", "Wan"),
    "LTXPipeline": ("ltx", "LTX"),
    "HunyuanVideoPipeline": ("hunyuan_video", "HunyuanVideo"),
    "CogVideoXPipeline": ("cogvideox", "CogVideoX"),
}

# Of no family: their networks know the few steps of their sampler alone.
DISTILLED = ("SanaSprintPipeline", "LatentConsistencyModelPipeline")


def load_backbone(
    name: str,
    vae: str | None = None,
    encoders: bool = True,
    dtype: torch.dtype = torch.float32,
    is_turbo: bool = False,
    **hub: Any,
) -> Backbone:
    """The pipeline ``name`` (folder or hub id), as the family that its model_index.json names: its
    network in ``dtype``, all else in float32.

    ``encoders=False`` leaves out autoencoder and text encoders until ``load_encoders``. ``hub``
    takes revision, variant and cache_dir.

    Raises UserError where the pipeline is missing, damaged, of a family or with a scheduler that is
    not in the tables, where its parts do not fit each other, and where it is a distilled model of
    few steps, unless ``is_turbo`` asks for one.
    """
    index = read_index(name, hub)
    try:
        family = family_of(index["_class_name"])
        folder = local_folder(family, name, [] if encoders else list(family.encoder_names), hub)
        at = Location(family, name, index, folder, vae, hub)
        parts, vae_config = load_parts(at, encoders, dtype, is_turbo)
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
    if class_name in DISTILLED:
        raise UserError(
            f"{class_name} is distilled: train the model that it was made from, and use the result"
            " with this one"
        )
    if class_name not in BACKBONES:
        raise UserError(f"{class_name} is not supported; these are: {', '.join(BACKBONES)}")
    module, name = BACKBONES[class_name]
    family: type[Backbone] = getattr(import_module(f"{__name__}.{module}"), name)
    return family


def backbone_of(pipeline: Any, is_turbo: bool = False) -> Backbone:
    """A pipeline that is loaded already, as the family that its class names.

    The pipeline keeps its components, and its network is the one that is trained.

    Raises UserError for a family or a scheduler that is not in the tables, for parts that do not
    fit each other, and for a distilled model, unless ``is_turbo`` asks for one.
    """
    family = family_of(type(pipeline).__name__)
    check_in_memory(family, pipeline, is_turbo)
    # A pipeline of our own around the same components: freeing encoders empties its slots, and the
    # caller's pipeline stays complete.
    parts = {**pipeline.components, **registered(pipeline), **family.load_options}
    backbone = family(family.pipeline_class(**parts), pipeline.vae.config)
    for module in (backbone.network, *backbone.encoders()):
        module.float()
    check_embeddings(backbone)
    backbone.pipeline_in_memory = pipeline
    return backbone


def load_encoders(backbone: Backbone, name: str, vae: str | None, **hub: Any) -> None:
    """Load the encoders that ``encoders=False`` left out."""
    whole = load_backbone(name, vae, is_turbo=True, **hub)  # what it is was checked before
    for component in backbone.encoder_names:
        setattr(backbone.pipeline, component, getattr(whole.pipeline, component))
