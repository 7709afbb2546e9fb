"""Opens the pipeline and the pairs that the settings name; the bundled ones by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from datasets import Dataset

from diffdpo.data.bundled import bundled
from diffdpo.data.columns import given_columns
from diffdpo.data.decode import Limits
from diffdpo.data.image_formats import ROLES, detect
from diffdpo.data.labels import column_of, mapped
from diffdpo.data.mixed_tables import mixed_tables
from diffdpo.data.prompts import read_prompts
from diffdpo.data.source import FOLDER, open_with_folders
from diffdpo.data.strategies import OF_SET
from diffdpo.data.stream_settings import IN_MEMORY
from diffdpo.data.streams.table import StreamTable
from diffdpo.engine.accelerator import DTYPES, usable_precision
from diffdpo.errors import UserError
from diffdpo.image.backbones import backbone_of, load_backbone
from diffdpo.image.backbones.base import Backbone, vae_dtype
from diffdpo.image.bundled import MODEL, PAIRS
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.flags.loss_settings import image_objective
from diffdpo.image.pair_settings import PairSettings
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.pictures.side_columns import SideSettings
from diffdpo.image.reading.clip_length import check_frames, settle_frames
from diffdpo.image.reading.pairs import ImagePairs, image_pairs
from diffdpo.image.reading.streamed import StreamedPairs, streamed_pairs
from diffdpo.image.settings import ImageDataSettings, ImageSettings

MODELS = ("model_0", "model_1")  # columns that --dreamlike_pairs_only reads

Settings = TypeVar("Settings", bound=ImageDataSettings)
Sampled = TypeVar("Sampled", EvaluateSettings, PairSettings)


def with_bundled_pairs(settings: Settings) -> Settings:
    """The settings with the bundled model and its pairs where no model is named."""
    model, data = settings.pretrained_model_name_or_path, settings.dataset_name
    data = data or settings.train_data_dir
    if model is None:
        model, data = bundled(MODEL), data or bundled(PAIRS)
    return replace(settings, pretrained_model_name_or_path=model, dataset_name=data)


def open_pipeline(
    settings: Settings,
    encoders: bool = True,
    pipeline: Any = None,
    dtype: torch.dtype = torch.float32,
    encoder_dtype: torch.dtype = torch.float32,
    network: bool = True,
    base_precision: str | None = None,
) -> tuple[Settings, Backbone]:
    """The settings with names and resolution filled in, and the model: loaded, its network in
    ``dtype`` and its text encoders in ``encoder_dtype``, or ``pipeline``.

    Where no model is named it is the bundled one; where no resolution is given, the model's own.
    Encoders and network may be left out, as ``load_backbone`` does.

    Raises UserError for a resolution or a length of the text that the model cannot have.
    """
    settings = with_bundled_pairs(settings)
    if pipeline is not None:
        check_may_be_in_memory(base_precision)
        backbone = backbone_of(pipeline, settings.is_turbo, dtype, encoder_dtype)
    else:
        backbone = load_backbone(
            str(settings.pretrained_model_name_or_path),
            settings.pretrained_vae_model_name_or_path,
            encoders,
            dtype,
            settings.is_turbo,
            network,
            encoder_dtype,
            base_precision,
            **settings.hub_options,
        )
    if settings.max_sequence_length is not None:
        backbone.limit_text(settings.max_sequence_length)
    resolution = settings.resolution or backbone.native_resolution
    check_resolution(resolution, backbone)
    backbone.num_frames = settings.num_frames or 1
    check_frames(backbone.num_frames, backbone.frame_factor)
    return replace(settings, resolution=resolution), backbone


def check_may_be_in_memory(base_precision: str | None) -> None:
    """Raise UserError where a model in memory cannot have this precision any more."""
    if base_precision not in (None, "bf16"):
        raise UserError(
            f"--base_precision {base_precision} is one of loading, and this model is in memory"
            " in full; hand over its folder"
        )


def check_resolution(resolution: int, backbone: Backbone) -> None:
    """Raise UserError for a resolution, in pixels, that the model cannot have."""
    factor = backbone.pixel_multiple
    if resolution % factor:
        near = max(factor, round(resolution / factor) * factor)
        raise UserError(f"--resolution {resolution} is not a multiple of {factor}; take {near}")
    if resolution > backbone.largest_resolution:
        raise UserError(
            f"--resolution {resolution}: the model has positions for pictures of"
            f" {backbone.largest_resolution:g} pixels at most"
        )


def open_to_sample(
    settings: Sampled, device: torch.device, base_precision: str | None = None
) -> tuple[Sampled, Backbone]:
    """The same for a command that samples on ``device``: all of the model in the precision that
    the settings name, which the settings returned have as this device takes it."""
    # What is stored in fewer bits computes in bfloat16.
    asked = "bf16" if base_precision else settings.mixed_precision or "no"
    precision = usable_precision(asked, device.type == "cpu")
    dtype = DTYPES[precision]
    settings, backbone = open_pipeline(
        replace(settings, mixed_precision=precision),
        dtype=dtype,
        encoder_dtype=dtype,
        base_precision=base_precision,
    )
    backbone.vae.to(vae_dtype(dtype))
    return settings, backbone


def prompts_to_sample(settings: Sampled, pairs: ImagePairs | None = None) -> list[str]:
    """The distinct prompts that the settings name or, where they name none, those of ``pairs``, by
    default of all pairs that the settings name, ties among them."""
    if settings.prompts is not None:
        split, config = settings.dataset_split_name, settings.dataset_config_name
        return read_prompts(settings.prompts, split, config, settings.cache_dir)
    if pairs is None:
        # With ties kept: their prompts are as good as others.
        framing = FrameSettings(settings.seed, settings.resolution or 0, ties="soft")
        pairs = open_pairs(settings, framing)
    return list(dict.fromkeys(pairs.prompts()))


def open_rows(settings: ImageDataSettings, seed: int) -> Dataset:
    """The rows of the data sets and split that the settings name; several are mixed by ``seed``."""
    split, config = settings.dataset_split_name, settings.dataset_config_name
    (strategy, weights), names = settings.mixing, settings.datasets
    if len({*names}) < len(names):
        raise UserError("--dataset_name: one of the data sets is named twice")
    sets = {
        name: open_with_folders(name, split, config, settings.cache_dir, "--split")
        for name in names
    }
    if len(sets) == 1 and strategy != OF_SET:
        return sets[names[0]]
    check_forms(sets, settings)
    return mixed_tables(sets, strategy, weights, seed)


def check_forms(sets: Mapping[str, Dataset], settings: ImageDataSettings) -> None:
    """Raises UserError where data sets have pairs in other forms, or columns that are read are in
    some of them alone."""
    given, requested = given_columns(settings, ROLES), settings.data_format
    forms = [
        detect([column for column in rows.column_names if column != FOLDER], given, requested)
        for rows in sets.values()
    ]
    if any(form is not forms[0] for form in forms):
        raise UserError(
            "--dataset_name: the data sets have pairs in other forms; make one data set of them"
        )
    some = [
        name
        for name in forms[0].optional
        if 0 < sum(name in rows.column_names for rows in sets.values()) < len(sets)
    ]
    if some:
        raise UserError(
            f"--dataset_name: not all of the data sets have a column {some[0]}, which is read; add"
            " it to the others, or drop it"
        )


def open_pairs(
    settings: ImageDataSettings,
    framing: FrameSettings,
    rows: Dataset | None = None,
    in_memory: bool = False,
) -> ImagePairs:
    """The pairs of ``rows`` or, where None, of all rows that the settings name. Rows ``in_memory``
    are the caller's own, not those of the data set that the settings name."""
    rows = open_rows(settings, framing.seed) if rows is None else rows
    name = None if in_memory else str(settings.dataset_name)
    framing = limited(framing, settings)
    given, format = given_columns(settings, ROLES), settings.data_format
    return image_pairs(rows, framing, name, given, format, settings.cache_dir)


def open_streamed(
    settings: ImageSettings, framing: FrameSettings, rows: Dataset | None, quiet: bool
) -> StreamedPairs:
    """The pairs of the shards that the settings name. Raises UserError where there are ``rows`` in
    memory in their place."""
    if rows is not None:
        raise UserError(IN_MEMORY)
    name = str(settings.dataset_name)
    table = StreamTable.open(
        name,
        settings.dataset_split_name,
        settings.dataset_config_name,
        "--split",
        settings.precompute_dir,
        settings.buffer_size,
        quiet,
    )
    given, format = given_columns(settings, ROLES), settings.data_format
    return streamed_pairs(table, limited(framing, settings), name, given, format)


def limited(framing: FrameSettings, settings: ImageDataSettings) -> FrameSettings:
    """The framing with the sizes of pictures that the settings allow."""
    return replace(framing, limits=Limits(settings.max_image_pixels, settings.max_image_ratio))


def training_pairs(
    settings: ImageSettings, backbone: Backbone, quiet: bool, rows: Dataset | None
) -> ImagePairs:
    """The pairs to train ``backbone`` on, with unreadable ones dropped; ``rows`` replace the named
    data set."""
    framing = FrameSettings(
        seed=settings.seed,
        resolution=settings.resolution or 0,
        random_crop=settings.random_crop,
        flip=not settings.no_hflip,
        ties=settings.ties,
        random_labels=settings.random_labels,
        beside=beside(settings),
    )
    if settings.streaming:
        pairs: ImagePairs = open_streamed(settings, framing, rows, quiet)
    else:
        in_memory = rows is not None
        rows = open_rows(settings, settings.seed) if rows is None else rows
        rows = dreamlike(rows) if settings.dreamlike_pairs_only else rows
        pairs = open_pairs(settings, framing, rows, in_memory)
    if settings.dreamlike_pairs_only:
        unread = pairs.tally.unread_columns
        pairs.tally.unread_columns = [column for column in unread if column not in MODELS]
    pairs.limit(settings.max_train_samples, settings.seed)
    settle_frames(pairs, backbone, settings.num_frames)
    if settings.given_noise and backbone.num_frames > 1:
        raise UserError("--given_noise: the noise of clips is not made anew; leave it out")
    if settings.cache_latents:  # encoding them reads every image, and checks it
        pairs.count_traps()
    else:
        pairs.check(quiet)
    return pairs


def beside(settings: ImageSettings) -> SideSettings:
    """The columns that the settings ask for beside pictures, prompt and label."""
    reads_gap = image_objective(settings).reads_gap
    return SideSettings(
        settings.score_column if reads_gap else None,
        1.0 if settings.gap_scale is None else settings.gap_scale,
        settings.given_noise,
        settings.mask_column,
    )


def dreamlike(rows: Dataset) -> Dataset:
    """The rows whose two images both come from a dreamlike model."""
    if not set(MODELS) <= set(rows.column_names):
        raise UserError("--dreamlike_pairs_only needs the columns model_0 and model_1")
    first, second = (mapped(column_of(rows, column), is_dreamlike) for column in MODELS)
    numbers = np.flatnonzero(first * second)
    if not len(numbers):
        raise UserError("--dreamlike_pairs_only: no row has two dreamlike images")
    return rows.select(numbers)


def is_dreamlike(name: object) -> bool:
    """Whether a model of this name is one of dreamlike's."""
    return "dream" in str(name).lower()
