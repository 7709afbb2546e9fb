"""Image preference training, from flags to exported result."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn

from diffdpo.engine.accelerator import DTYPES
from diffdpo.engine.batches import Rows
from diffdpo.engine.callbacks import Callbacks
from diffdpo.engine.console import say
from diffdpo.engine.load_once import hollow, loads_once, maker
from diffdpo.engine.run import TrainingResult, carry_out
from diffdpo.engine.run_folder import begin
from diffdpo.engine.sharding import first_place, is_sharded
from diffdpo.engine.trained_on import keep_record
from diffdpo.engine.trainer import Trainer
from diffdpo.engine.waiting import meet
from diffdpo.engine.watch.evals import Measures
from diffdpo.errors import UserError
from diffdpo.image.backbones import load_encoders, load_trained
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.caching.cache_keys import EncoderDigests, reference_key
from diffdpo.image.caching.latent_cache import StoredPrompts, store_encodings
from diffdpo.image.caching.reference_scores import function_digest, stored_reference
from diffdpo.image.facts import image_facts
from diffdpo.image.flags.loss_settings import image_objective
from diffdpo.image.model.export import export
from diffdpo.image.model.network import (
    adapt,
    base_copy,
    make_reference,
    resolve_lora,
    save_activations,
)
from diffdpo.image.process.noise import Process
from diffdpo.image.process.processes import process_for
from diffdpo.image.reading.inputs import open_pipeline, training_pairs
from diffdpo.image.reading.pairs import ImagePairs
from diffdpo.image.sampling.validation import ValidationPictures
from diffdpo.image.scoring import beta
from diffdpo.image.scoring.collation import DrawSettings
from diffdpo.image.scoring.held_out import divided, measures
from diffdpo.image.settings import ImageSettings
from diffdpo.image.task import ImageTask
from diffdpo.reference import Reference


def main(settings: ImageSettings) -> int:
    """Train, from loading to export; returns the exit code."""
    return train(settings, begin(settings)).exit_code


@dataclass(frozen=True)
class ImageObjects:
    """Objects that a program has in memory, in place of those that the settings name."""

    dataset: Dataset | None = None
    pipeline: Any = None


def resolved(
    settings: ImageSettings, accelerator: Accelerator, pipeline: Any = None
) -> tuple[ImageSettings, Backbone]:
    """Every setting at its final value, as config.yaml will hold it, and the model.

    Raises UserError where a flag contradicts the model.
    """
    # With stored encodings encoders are loaded where one is missing, and the network after them;
    # unless pictures are to be sampled, which takes all at once.
    stored = settings.cache_latents and not settings.run_validation
    half = DTYPES[accelerator.mixed_precision or "no"]
    settings, backbone = open_pipeline(
        settings,
        encoders=not stored,
        pipeline=pipeline,
        dtype=half if settings.is_lora else torch.float32,  # what is trained is float32
        encoder_dtype=half,
        network=not (stored or is_read_once(settings, accelerator, pipeline)),
        base_precision=settings.base_precision,
    )
    family = type(backbone).__name__
    if settings.sdxl and family != "StableDiffusionXL":
        raise UserError(
            f"--sdxl: {settings.pretrained_model_name_or_path} is a {family} pipeline; leave the"
            " flag out"
        )
    loss = ["sft"] if settings.sft else settings.loss_type
    precision = accelerator.mixed_precision
    settings = resolve_lora(backbone, settings)
    workers = settings.workers_on(accelerator.device.type)
    final = replace(
        settings, loss_type=loss, mixed_precision=precision, dataloader_num_workers=workers
    )
    return final, backbone


@dataclass
class Encoded:
    """Model and pairs, with encodings on disk where these are stored."""

    settings: ImageSettings
    backbone: Backbone
    pairs: ImagePairs
    encoders: EncoderDigests | None  # where something is stored
    embed: StoredPrompts | None


@dataclass
class ImageRun:
    """All that a run needs, loaded and moved to its device."""

    settings: ImageSettings
    backbone: Backbone
    process: Process
    pairs: ImagePairs
    network: nn.Module
    task: ImageTask
    rows: Rows  # the pairs, with reference scores where these are stored
    reference: Reference


def train(
    settings: ImageSettings,
    accelerator: Accelerator,
    objects: ImageObjects = ImageObjects(),
    callbacks: Callbacks | None = None,
) -> TrainingResult:
    """One run, from loading to export; ``callbacks`` hear of it."""
    run = prepare_images(settings, accelerator, objects)
    settings = run.settings
    division = divided(run.rows, run.pairs, settings)
    settings, spread = beta.settled(
        settings, division.rows, run.task, run.network, run.reference, accelerator
    )
    meet()  # one process may have read its data for longer than a group of training waits
    objective = image_objective(settings)
    trainer = Trainer(
        accelerator, settings, run.network, run.task, run.reference, objective, division.rows, say
    )
    trainer.listen(callbacks or Callbacks())
    if not spread:
        beta.listen(trainer, settings)

    def validation() -> Measures:
        pictures = ValidationPictures(
            settings, run.backbone, run.network, run.reference, division.to_sample(), accelerator
        )
        return measures(pictures, settings, run.process, run.rows, division, trainer)

    def write(last: Mapping[str, float]) -> Path:
        # Takes accelerate's precision wrapper off the network, which outlives the run.
        accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        keep_record(Path(settings.output_dir), prompts=division.each_prompt())
        return export(run.backbone, run.network, settings, last)

    lines = image_facts(settings, run.backbone, run.process, run.pairs, trainer)
    lines |= division.line(settings) | spread
    finished = carry_out(settings, trainer, lines, validation, write)
    return TrainingResult(Path(settings.output_dir), finished, run.network)


def prepare_images(
    settings: ImageSettings, accelerator: Accelerator, objects: ImageObjects = ImageObjects()
) -> ImageRun:
    """Load model and pairs, and read stored encodings and scores, or compute and store them."""
    encoded = prepare_encodings(settings, accelerator, objects)
    settings, backbone, pairs = encoded.settings, encoded.backbone, encoded.pairs
    process = process_for(backbone, settings)
    dtype = DTYPES[settings.mixed_precision or "no"]
    place = first_place(accelerator, is_whole(settings))

    def make() -> tuple[nn.Module | None, nn.Module]:
        # Only now, when encoders that are needed no longer are gone: memory holds one or the other.
        load_trained(backbone)
        return base_copy(backbone, settings, place), adapt(backbone, settings, dtype, place)

    once = is_read_once(settings, accelerator, objects.pipeline)
    base, network = maker(accelerator, once)(make)
    setattr(backbone.pipeline, backbone.part, network)
    save_activations(network, settings)
    draws, device = draw_settings(settings), accelerator.device
    task = ImageTask(backbone, process, draws, device, accelerator.autocast, embed=encoded.embed)
    copied = hollow if is_sharded(accelerator) else copy.deepcopy
    reference = make_reference(network, settings, base, copied)
    rows: Rows = pairs
    if settings.reference_draws and encoded.encoders:
        key = reference_key(
            pairs, process, encoded.encoders, function_digest(reference, network), settings
        )
        rows, reference = stored_reference(
            rows, task, network, reference, key, settings, accelerator
        )
    return ImageRun(settings, backbone, process, pairs, network, task, rows, reference)


def is_whole(settings: ImageSettings) -> bool:
    """Whether every process holds the whole network also where weights are in shares: before
    training, to score with it, or, in few bits, for good."""
    return settings.reference_draws > 0 or settings.base_precision not in (None, "bf16")


def is_read_once(settings: ImageSettings, accelerator: Accelerator, pipeline: Any) -> bool:
    """Whether the first process alone reads the network."""
    return loads_once(accelerator, is_whole(settings)) and pipeline is None


def prepare_encodings(
    settings: ImageSettings, accelerator: Accelerator, objects: ImageObjects = ImageObjects()
) -> Encoded:
    """Open model and pairs, and read stored encodings, or compute and store them.

    Where encodings are stored, the model's network is not loaded yet.
    """
    settings, backbone = resolved(settings, accelerator, objects.pipeline)
    quiet = not accelerator.is_local_main_process
    pairs = training_pairs(settings, backbone, quiet, objects.dataset)
    settings = replace(settings, num_frames=backbone.num_frames)
    process_for(backbone, settings)  # what it refuses, it refuses before anything is computed
    dtype = DTYPES[settings.mixed_precision or "no"]
    backbone.move_encoders(accelerator.device, dtype)

    def load(names: Sequence[str]) -> None:
        load_encoders(backbone, names)
        backbone.move_encoders(accelerator.device, dtype)

    encoders = None
    if settings.cache_latents or settings.reference_draws:
        encoders = encoder_digests(settings, backbone, accelerator)
    embed = None
    if settings.cache_latents and encoders:
        embed = store_encodings(pairs, backbone, load, encoders, settings, accelerator)
    return Encoded(settings, backbone, pairs, encoders, embed)


def encoder_digests(
    settings: ImageSettings, backbone: Backbone, accelerator: Accelerator
) -> EncoderDigests:
    """The digests of a run's encoders: from their files or, of a pipeline in memory, weights."""
    if backbone.pipeline_in_memory is not None:
        return EncoderDigests.loaded(backbone)
    name, vae = settings.pretrained_model_name_or_path, settings.pretrained_vae_model_name_or_path
    dtype = DTYPES[settings.mixed_precision or "no"]
    return EncoderDigests.of(
        backbone, str(name), vae, settings.hub_options, dtype, accelerator.device
    )


def draw_settings(settings: ImageSettings) -> DrawSettings:
    """The settings that the task needs."""
    return DrawSettings(
        seed=settings.seed,
        resolution=settings.resolution or 0,
        draws=settings.timesteps_per_pair,
        empty_prompts=settings.proportion_empty_prompts,
        noise_offset=settings.noise_offset,
        input_perturbation=settings.input_perturbation,
        vae_chunk=settings.vae_encode_batch_size,
    )
