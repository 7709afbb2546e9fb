"""ADD A BACKBONE HERE: one file with what differs, one row keyed by the ``_class_name`` of
model_index.json; and a tiny pipeline in ``tests/families``, which then meets all checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch

from diffdpo.engine.low_bits import check_bits
from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone, in_precision
from diffdpo.image.backbones.location import local_folder, read_index
from diffdpo.image.backbones.memory import check_in_memory, registered
from diffdpo.image.backbones.parts import Location, check_embeddings, load_part, load_parts
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
    network: bool = True,
    encoder_dtype: torch.dtype = torch.float32,
    base_precision: str | None = None,
    **hub: Any,
) -> Backbone:
    """The pipeline ``name`` (folder or hub id), as the family that its model_index.json names: its
    network in ``dtype``, its text encoders in ``encoder_dtype``, the autoencoder in float32.

    ``encoders=False`` leaves out autoencoder and text encoders until ``load_encoders``, and
    ``network=False`` the network until ``load_trained``: it is one without memory until then.
    A frozen network may be quantised by ``base_precision``, a name of ``--base_precision``.
    ``hub`` takes revision, variant and cache_dir.

    Raises UserError where the pipeline is missing, damaged, of a family or with a scheduler that is
    not in the tables, where its parts do not fit each other, and where it is a distilled model of
    few steps, unless ``is_turbo`` asks for one.
    """
    check_bits(base_precision, f"--base_precision {base_precision}")
    index = read_index(name, hub)
    with told_of(name):
        family = family_of(index["_class_name"])
        folder = local_folder(family, name, [] if encoders else list(family.encoder_names), hub)
        at = Location(family, name, index, folder, vae, hub, dtype, encoder_dtype, base_precision)
        parts, vae_config = load_parts(at, encoders, network, is_turbo)
        with told_in_one_line("pipeline"):
            pipeline = family.pipeline_class.from_pretrained(
                folder, **family.load_options, **parts, use_safetensors=True
            )
        backbone = family(pipeline, vae_config)
        backbone.origin = at
        if encoders:
            check_embeddings(backbone)
    return backbone


@contextmanager
def told_of(name: str) -> Iterator[None]:
    """Every mistake that is found inside is told of the model ``name``."""
    try:
        yield
    except UserError as error:
        raise UserError(*(f"model {name}: {line}" for line in error.mistakes)) from error


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


def backbone_of(
    pipeline: Any,
    is_turbo: bool = False,
    dtype: torch.dtype = torch.float32,
    encoder_dtype: torch.dtype = torch.float32,
) -> Backbone:
    """A pipeline that is loaded already, as the family that its class names: with its network in
    ``dtype``, its text encoders in ``encoder_dtype``, the autoencoder in float32.

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
    in_precision(backbone.network, dtype)
    backbone.vae.float()
    for encoder in backbone.text_encoders():
        in_precision(encoder, encoder_dtype)
    check_embeddings(backbone)
    backbone.pipeline_in_memory = pipeline
    return backbone


def load_encoders(backbone: Backbone, names: Sequence[str] = ()) -> None:
    """Load the encoders that ``encoders=False`` left out: all of them, or those of ``names``.

    Raises UserError as ``load_backbone``.
    """
    at, pipeline = backbone.origin, backbone.pipeline
    with told_of(at.name):
        there = ["vae", *at.texts()]  # the others are such as the pipeline does without
        wanted = [name for name in names or there if name in there]
        left_out = [name for name in (at.family.part, *there) if name not in wanted]
        at = replace(at, folder=local_folder(at.family, at.name, left_out, at.hub))
        for name in wanted:
            setattr(pipeline, name, load_part(at, name))
        backbone.freeze_encoders()
        if backbone.text_encoders():
            check_embeddings(backbone)


def load_trained(backbone: Backbone) -> None:
    """Load the network where ``network=False`` left it out.

    Raises UserError as ``load_backbone``.
    """
    at = backbone.origin
    if next(backbone.network.parameters()).is_meta:
        with told_of(at.name):
            setattr(backbone.pipeline, at.family.part, load_part(at, at.family.part))
