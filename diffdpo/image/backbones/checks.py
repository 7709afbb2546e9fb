"""Checks of a pipeline's configurations, before its weights and the data are read."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from diffdpo.errors import UserError, short
from diffdpo.image.backbones.chat import plain_tokenizer
from diffdpo.image.backbones.weights import told_in_one_line

# Larger than any network has: what lies above is a damaged file, and would exhaust the memory.
LARGEST = 10_000_000  # of a width or a vocabulary
MOST_LAYERS = 1000
# Entries that say how a network was trained or saved, not what it computes; the first row is
# what diffusers' moving average of weights leaves behind.
NOT_COMPUTED = {
    *("decay", "min_decay", "inv_gamma", "power", "optimization_step", "update_after_step"),
    "use_ema_warmup",
}
STATISTICS = ("latents_mean", "latents_std")  # a number for each channel of the latents
# Entries of any sign: those statistics, and a layer that is counted from the last one.
SIGNED = ("latents_", "vision_feature_layer")
VERY_LONG = 1_000_000  # tokens: what transformers says where a tokenizer names no length is above


def check_entries(raw: Mapping[str, Any], kind: Any, what: str) -> None:
    """Check the entries of a configuration file of diffusers before a network is made of them.

    Raises UserError for one that the class does not know, and for absurd numbers.
    """
    check_sizes(raw, what)
    named = raw.get("_class_name", kind.__name__)
    if named != kind.__name__:
        raise UserError(f"{what}: {short(named)} is not supported ({kind.__name__} is)")
    known = {*inspect.signature(kind.__init__).parameters, *NOT_COMPUTED}
    for name, value in raw.items():
        # None and False ask for nothing.
        if not name.startswith("_") and name not in known and value not in (None, False):
            raise UserError(
                f"{what}: nothing is known of {short(name)} ({short(value)}) in its config.json; if"
                " it changes no number, take it out there"
            )


def check_sizes(raw: Mapping[str, Any], what: str) -> None:
    """Raises UserError where a size of a network is negative or beyond all that exist."""
    for name, value in raw.items():
        if name.endswith("token_id") or name.startswith("_"):
            continue
        for number in numbers(value):
            layers = "layers" in name and number > MOST_LAYERS
            negative = isinstance(number, int) and number < 0 and not name.startswith(SIGNED)
            if layers or negative or not abs(number) <= LARGEST:
                raise UserError(f"{what}: {short(name)} {short(number)} in its config.json")


def numbers(value: Any) -> Iterator[int | float]:
    """The numbers in a value of a configuration, however deep in lists."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from numbers(inner)


def on_meta(kind: Any, raw: Mapping[str, Any], what: str) -> Any:
    """A network of a configuration, without memory for its weights."""
    check_entries(raw, kind, what)
    with told_in_one_line(f"{what}: its config.json"), torch.device("meta"):
        return kind.from_config(dict(raw))


def check_autoencoder(config: Any, undone: Sequence[str]) -> None:
    """Check what the pipeline undoes before it decodes: the scale, and the entries ``undone``.

    Raises UserError where latents would be normalised otherwise than it does.
    """
    what = "vae/config.json"
    check_picture_channels(config)
    scale = config.scaling_factor
    if not is_number(scale) or scale <= 0:
        raise UserError(f"{what}: scaling_factor must be positive, got {short(scale)}")
    given = [
        name
        for name in ("shift_factor", *STATISTICS)
        if getattr(config, name, None) not in (None, 0, 0.0)
    ]
    strange = [name for name in given if name not in undone]
    # Mean and deviation are undone together or not at all.
    strange += [name for name in given if name in STATISTICS and not {*STATISTICS} <= {*given}]
    if strange:
        raise UserError(
            f"{what}: {' and '.join(given)} would be ignored when its pipeline decodes, so training"
            " cannot use it; take it out, or use a pipeline that does"
        )
    for name in given:
        if name in STATISTICS:
            check_statistic(name, getattr(config, name), config.latent_channels)
        elif not is_number(getattr(config, name)):
            raise UserError(f"{what}: {name} must be a number, got {short(getattr(config, name))}")


def check_picture_channels(config: Any) -> None:
    """Raises UserError for an autoencoder of other things than pictures."""
    # Not every kind of autoencoder names the channels that it gives.
    if (config.in_channels, getattr(config, "out_channels", 3)) != (3, 3):
        raise UserError(
            f"vae/config.json: takes {config.in_channels} channels, and pictures have 3"
        )


def check_statistic(name: str, values: Any, channels: int) -> None:
    """Raises UserError unless there is one number a channel, a positive one for deviations."""
    listed = isinstance(values, (list, tuple)) and all(map(is_number, values))
    if not listed or len(values) != channels or (name == "latents_std" and min(values) <= 0):
        raise UserError(
            f"vae/config.json: {name} must be {channels} numbers, one a channel of the latents,"
            f" deviations positive; got {short(values)}"
        )


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_unet(config: Any, vae_config: Any, width: int) -> None:
    """Check that the UNet fits its autoencoder and text encoders; these give ``width`` channels.

    Raises UserError where it does not.
    """
    latents = vae_config.latent_channels
    if config.in_channels != latents:
        raise UserError(
            f"the UNet takes {config.in_channels} channels, the autoencoder gives {latents}"
        )
    if config.out_channels != latents:
        raise UserError(
            f"the UNet gives {config.out_channels} channels, the autoencoder takes {latents}"
        )
    if config.time_cond_proj_dim is not None:
        raise UserError(
            "the UNet takes the guidance scale as a condition (time_cond_proj_dim), which is not"
            " supported"
        )
    across = config.cross_attention_dim
    if config.encoder_hid_dim_type is None and isinstance(across, int) and across != width:
        raise UserError(
            f"the UNet's cross_attention_dim is {across}, the text encoders give {width} channels"
        )
    size = config.sample_size
    sides = size if isinstance(size, (list, tuple)) and len(size) == 2 else [size]
    if size is not None and not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(f"unet/config.json: sample_size {short(size)} is no side in latent cells")


def check_tokenizer(tokenizer: Any, config: Any, what: str) -> None:
    """Check that a text encoder knows all tokens and positions of its tokenizer.

    A tokenizer without a length gets that of the encoder. Raises UserError for one that is longer.
    """
    tokenizer = plain_tokenizer(tokenizer)
    # Of CLIP alone pipelines pad prompts to the length of the tokenizer.
    if is_clip(config):
        positions = config.max_position_embeddings
        if tokenizer.model_max_length > VERY_LONG:
            tokenizer.model_max_length = positions
        if not 2 < tokenizer.model_max_length <= positions:
            raise UserError(
                f"{what}: model_max_length is {short(tokenizer.model_max_length)}, and its text"
                f" encoder has {positions} positions"
            )
    known = config.get_text_config().vocab_size
    if len(tokenizer) > known:
        raise UserError(f"{what}: has {len(tokenizer)} tokens, and its text encoder knows {known}")


def is_clip(config: Any) -> bool:
    """Whether a configuration is that of a text encoder of CLIP."""
    return config.model_type.startswith("clip")


def check_text_config(config: Any, what: str) -> None:
    """Raises UserError for a text encoder whose width or number of positions is not told."""
    needed = ["hidden_size", "vocab_size"]
    if is_clip(config):
        needed.insert(1, "max_position_embeddings")
    text = config.get_text_config()  # of a model that sees pictures as well, its part for text
    if not all(isinstance(getattr(text, name, None), int) for name in needed):
        raise UserError(f"{what}: its config.json lacks one of {', '.join(needed)}")
    check_sizes(config.to_dict(), what)
