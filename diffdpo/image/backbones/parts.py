"""Loads the parts of a pipeline one by one: configurations are checked before weights are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn
from transformers import PreTrainedModel

from diffdpo.engine.low_bits import compute_in_bfloat16, loading_options
from diffdpo.errors import UserError, short
from diffdpo.image.backbones.base import Backbone, tokenizer_of
from diffdpo.image.backbones.checks import check_text_config, check_tokenizer, on_meta
from diffdpo.image.backbones.conditions import MASK, widths
from diffdpo.image.backbones.encoder_files import vae_config, vae_source
from diffdpo.image.backbones.location import class_of, is_left_out
from diffdpo.image.backbones.weights import (
    Source,
    load_network,
    stem_of,
    told_in_one_line,
    variant_in,
    variants_in,
)
from diffdpo.image.process.noise import Diffusion, Flow
from diffdpo.image.process.schedules import check_class, check_timesteps


@dataclass(frozen=True)
class Location:
    """Where the parts of a pipeline are: its name, its index and, on this machine, its folder."""

    family: type[Backbone]
    name: str
    index: dict[str, Any]
    folder: Path
    vae: str | None  # another autoencoder
    hub: dict[str, Any]
    dtype: torch.dtype = torch.float32  # of the network
    encoder_dtype: torch.dtype = torch.float32  # of the text encoders
    base_precision: str | None = None  # in which the network's weights are stored, if another

    def source(self, part: str) -> Source:
        """Where the configuration of a part is, if its other files were left out as well."""
        options = {k: v for k, v in self.hub.items() if k != "variant"}
        return self.name, {"subfolder": part, **options}

    def expected(self, part: str) -> Any:
        """The class that a network must have, as far as its family knows."""
        ours = {self.family.part: self.family.network_class, "vae": self.family.vae_class}
        return ours.get(part, PreTrainedModel)

    def kind(self, part: str) -> Any:
        """The class of a network."""
        kind, expected = class_of(self.index, part), self.expected(part)
        if part == self.family.part and kind.__name__ in self.family.former_names:
            kind = expected
        if not issubclass(kind, expected):
            raise UserError(
                f"model_index.json: {part} {kind.__name__} is not supported"
                f" ({expected.__name__} is)"
            )
        return kind

    def texts(self) -> list[str]:
        """The text encoders, without those that this pipeline leaves out."""
        return [
            name
            for name in self.family.encoder_names[1:]
            if name not in self.family.optional_encoders or not is_left_out(self.index, name)
        ]


def load_parts(
    at: Location, encoders: bool, network: bool, is_turbo: bool
) -> tuple[dict[str, Any], Any]:
    """The parts of a pipeline by name, and the autoencoder's configuration.

    For encoders that are left out there is None, for the network one without memory: some pipelines
    read its configuration when they encode prompts.

    Raises UserError where a part is missing, damaged, not known, does not fit the others, or is
    distilled.
    """
    family, texts = at.family, at.texts()
    family.check_registered(at.index)
    parts = load_plain(at)
    configs = {name: text_config(at, name) for name in texts}
    if at.vae is None:
        at.kind("vae")
    latents = vae_config(family.vae_class, vae_source(at.name, at.vae, at.hub))
    with told_in_one_line(family.part):
        raw = at.kind(family.part).load_config(at.folder, subfolder=family.part)
    if raw.get("_class_name") in family.former_names:
        raw = {**raw, "_class_name": family.network_class.__name__}
    outline = on_meta(family.network_class, raw, family.part)
    check_distilled(family, at.index, outline.config, parts["scheduler"], is_turbo)
    check_fit(family, outline, latents, configs)
    for name, config in configs.items():
        tokenizer = tokenizer_of(name)
        check_tokenizer(parts[tokenizer], config, tokenizer)
    check_files(at, [] if encoders else list(family.encoder_names))
    nn.Module.to(outline, at.dtype)  # in which some pipelines give their embeddings
    parts |= {family.part: outline, **dict.fromkeys(family.encoder_names)}
    wanted = ([family.part] if network else []) + ([*texts, "vae"] if encoders else [])
    return parts | {name: load_part(at, name) for name in wanted}, latents


def check_distilled(
    family: type[Backbone], index: Mapping[str, Any], config: Any, scheduler: Any, is_turbo: bool
) -> None:
    """Raises UserError for a model of few steps, unless it is asked for."""
    why = family.distilled(index, config, scheduler)
    if why and not is_turbo:
        raise UserError(
            f"is distilled ({why}): it is no flow between its few steps, and training blurs it."
            " Train the model that it was made from, and use the result with this one; or add"
            " --is_turbo"
        )


def load_plain(at: Location) -> dict[str, Any]:
    """Scheduler and tokenizers: the parts that have no weights."""
    scheduler, family = at.index.get("scheduler"), at.family
    check_class(str(scheduler[-1]) if isinstance(scheduler, (list, tuple)) else str(scheduler))
    parts: dict[str, Any] = dict.fromkeys(map(tokenizer_of, family.encoder_names[1:]))
    for part in ("scheduler", *map(tokenizer_of, at.texts())):
        kind = class_of(at.index, part)
        if not (at.folder / part).is_dir():
            raise UserError(f"{part}: no such folder there; the model is incomplete")
        with told_in_one_line(part):
            if part == "scheduler":  # it makes arrays of that length when it is loaded
                check_timesteps(kind.load_config(at.folder / part))
            parts[part] = kind.from_pretrained(at.folder / part)
    check_process(family, parts["scheduler"])
    return parts


def check_process(family: type[Backbone], scheduler: Any) -> None:
    """Raises UserError for a scheduler that the family cannot be trained with."""
    Flow(scheduler, tokens=1) if family.is_flow else Diffusion(scheduler)


def text_config(at: Location, part: str) -> Any:
    """The configuration of a text encoder."""
    name, options = at.source(part)
    # transformers would take the defaults of the class.
    if Path(name).is_dir() and not (Path(name) / part / "config.json").is_file():
        raise UserError(f"{part}: no config.json there")
    with told_in_one_line(part):
        config = at.kind(part).config_class.from_pretrained(name, **options)
    check_text_config(config, part)
    return config


def load_part(at: Location, part: str) -> Any:
    """A part of the pipeline that has weights, straight in its precision."""
    if part == "vae" and at.vae is not None:
        what = f"--pretrained_vae_model_name_or_path {short(at.vae)}"
        return load_network(at.family.vae_class, what, vae_source(at.name, at.vae, at.hub))
    # The autoencoder is small, and computes in float32 beside a network in float16.
    others = torch.float32 if part == "vae" else at.encoder_dtype
    dtype = at.dtype if part == at.family.part else others
    bits = loading_options(at.base_precision, diffusers) if part == at.family.part else {}
    source = (str(at.folder), {"subfolder": part, **bits})
    network = load_network(at.kind(part), part, source, at.hub.get("variant"), dtype)
    return compute_in_bfloat16(network) if bits else network


def check_fit(
    family: type[Backbone], network: Any, latents: Any, text_configs: Mapping[str, Any]
) -> None:
    """Check that a network without memory takes what autoencoder and text encoders give.

    Raises UserError where it does not.
    """
    family.check_autoencoder(latents)
    family.check_network(network.config, latents, text_configs)
    # Whatever else may not fit shows in a pass over shapes alone.
    who = "UNet" if family.part == "unet" else family.part
    misfit = "does not take what autoencoder and text encoders give"
    with told_in_one_line(f"the {who}", misfit), torch.device("meta"):
        noisy, timestep_N, condition = family.blank_inputs(network.config, latents, text_configs)
        given = family.predict(network, noisy, timestep_N, condition)
    if given.shape != noisy.shape:
        raise UserError(
            f"the {who} gives {given.shape[1]} channels of latents, the autoencoder takes"
            f" {noisy.shape[1]}"
        )


def check_embeddings(backbone: Backbone) -> None:
    """Encode one prompt. Raises UserError unless the text encoders give what the UNet takes."""
    names = [name for name in backbone.encoder_names[1:] if getattr(backbone.pipeline, name)]
    configs = {name: getattr(backbone.pipeline, name).config for name in names}
    expected = backbone.blank_inputs(backbone.network.config, backbone.vae_config, configs)[2]
    with told_in_one_line("text encoders"):
        for name, value in backbone.encode_prompts([""]).items():
            # Without a mask, as in a pass over shapes, all tokens are real.
            if name != MASK and widths(name, value) != widths(name, expected[name]):
                raise UserError(
                    f"text encoders: give {tuple(value.shape)} and not a vector for every token"
                )
            if not bool(value.isfinite().all()):
                raise UserError("text encoders: give NaN or infinite values")


def check_files(at: Location, left_out: Sequence[str]) -> None:
    """Check that every network of the pipeline has weights that can be read, in some part the
    wanted variant.

    Raises UserError where one has not. Parts that are not trained, as a safety checker, are among
    them: a full result is saved with them, and must not fail at the end.
    """
    variant = at.hub.get("variant")
    stems = {
        part: stem_of(at.expected(part))
        for part in networks_in(at)
        if part not in left_out and not (part == "vae" and at.vae)
    }
    for part, stem in stems.items():
        variant_in(at.folder / part, stem, variant, part)
    if variant and not any(variant in variants_in(at.folder / k, v) for k, v in stems.items()):
        raise UserError(f"holds no variant {short(variant)}; leave out --variant")


def networks_in(at: Location) -> list[str]:
    """The parts of the pipeline that lie on this machine and have weights."""
    without = ("scheduler", "tokenizer", "feature_extractor")
    return [
        part
        for part, entry in at.index.items()
        if isinstance(entry, (list, tuple)) and not part.startswith(without)
        if None not in entry and (at.folder / part).is_dir()
    ]
