"""Loads the parts of a pipeline one by one: configurations are checked before weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import PreTrainedModel

from diffdpo.errors import UserError, short
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.checks import (
    check_autoencoder,
    check_network,
    check_text_config,
    check_tokenizer,
    on_meta,
)
from diffdpo.image.backbones.encoder_files import vae_config, vae_source
from diffdpo.image.backbones.location import class_of
from diffdpo.image.backbones.weights import (
    Source,
    load_network,
    stem_of,
    told_in_one_line,
    variant_in,
    variants_in,
)
from diffdpo.image.noise import ForwardProcess
from diffdpo.image.schedules import check_class, check_timesteps

UNET = "unet"


@dataclass(frozen=True)
class Location:
    """Where the parts of a pipeline are: its name, its index and, on this machine, its folder."""

    name: str
    index: dict[str, Any]
    folder: Path
    vae: str | None  # another autoencoder
    hub: dict[str, Any]

    def source(self, part: str) -> Source:
        """Where the configuration of a part is, if its other files were left out as well."""
        options = {k: v for k, v in self.hub.items() if k != "variant"}
        return self.name, {"subfolder": part, **options}

    def kind(self, part: str) -> Any:
        """The class of a network."""
        kind, expected = class_of(self.index, part), EXPECTED.get(part, PreTrainedModel)
        if not issubclass(kind, expected):
            raise UserError(
                f"model_index.json: {part} {kind.__name__} is not supported"
                f" ({expected.__name__} is)"
            )
        return kind


EXPECTED = {UNET: UNet2DConditionModel, "vae": AutoencoderKL}


def load_parts(family: type[Backbone], at: Location, encoders: bool) -> tuple[dict[str, Any], Any]:
    """The parts of a pipeline by name, None for encoders that are left out; and the autoencoder's
    configuration.

    Raises UserError where a part is missing, damaged, not known, or does not fit the others.
    """
    parts = load_plain(family, at)
    texts = {name: text_config(at, name) for name in family.encoder_names[1:]}
    if at.vae is None:
        at.kind("vae")
    latents = vae_config(vae_source(at.name, at.vae, at.hub))
    with told_in_one_line(UNET):
        raw = at.kind(UNET).load_config(at.folder, subfolder=UNET)
    check_fit(family, on_meta(UNet2DConditionModel, raw, UNET), latents, list(texts.values()))
    for name, config in texts.items():
        tokenizer = tokenizer_of(name)
        check_tokenizer(parts[tokenizer], config, tokenizer)
    check_files(at, [] if encoders else list(family.encoder_names))
    for name in (UNET, *family.encoder_names[1:]):
        wanted = encoders or name == UNET
        parts[name] = load_here(at, name) if wanted else None
    parts["vae"] = load_vae(at) if encoders else None
    return parts, latents


def tokenizer_of(text_encoder: str) -> str:
    """The name of the tokenizer that belongs to a text encoder."""
    return text_encoder.replace("text_encoder", "tokenizer")


def load_plain(family: type[Backbone], at: Location) -> dict[str, Any]:
    """Scheduler and tokenizers: the parts that have no weights."""
    scheduler = at.index.get("scheduler")
    check_class(str(scheduler[-1]) if isinstance(scheduler, (list, tuple)) else str(scheduler))
    parts = {}
    for part in ("scheduler", *map(tokenizer_of, family.encoder_names[1:])):
        kind = class_of(at.index, part)
        if not (at.folder / part).is_dir():
            raise UserError(f"{part}: no such folder there; the model is incomplete")
        with told_in_one_line(part):
            if part == "scheduler":  # it makes arrays of that length when it is loaded
                check_timesteps(kind.load_config(at.folder / part))
            parts[part] = kind.from_pretrained(at.folder / part)
    ForwardProcess(parts["scheduler"])  # raises for one that cannot be trained
    return parts


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


def load_here(at: Location, part: str) -> Any:
    """A network in the pipeline's folder."""
    source = (str(at.folder), {"subfolder": part})
    return load_network(at.kind(part), part, source, at.hub.get("variant"))


def load_vae(at: Location) -> Any:
    """The autoencoder: the pipeline's own, or the other one."""
    if at.vae is None:
        return load_here(at, "vae")
    what = f"--pretrained_vae_model_name_or_path {short(at.vae)}"
    return load_network(AutoencoderKL, what, vae_source(at.name, at.vae, at.hub))


def check_fit(family: type[Backbone], unet: Any, latents: Any, text_configs: Sequence[Any]) -> None:
    """Check that a UNet without memory takes what autoencoder and text encoders give.

    Raises UserError where it does not.
    """
    check_autoencoder(latents, family.undoes_statistics)
    check_network(unet.config, latents, family.text_width(text_configs))
    # Whatever else may not fit shows in a pass over shapes alone.
    side = 2 ** len(unet.config.block_out_channels)
    misfit = "does not take what autoencoder and text encoders give"
    with told_in_one_line("the UNet", misfit), torch.device("meta"):
        noisy = torch.empty(1, latents.latent_channels, side, side)
        blank = family.blank_condition(text_configs)
        family.predict(unet, noisy, torch.empty(1, dtype=torch.long), blank)


def check_embeddings(backbone: Backbone) -> None:
    """Encode one prompt. Raises UserError unless the text encoders give what the UNet takes."""
    expected = backbone.blank_condition([encoder.config for encoder in backbone.text_encoders()])
    with told_in_one_line("text encoders"):
        for name, value in backbone.encode_prompts([""]).items():
            if (value.ndim, value.shape[-1]) != (expected[name].ndim, expected[name].shape[-1]):
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
        part: stem_of(EXPECTED.get(part, PreTrainedModel))
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
