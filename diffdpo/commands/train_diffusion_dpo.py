"""Image preference training, from flags to exported result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from diffdpo.cache.keys import network_digest
from diffdpo.cache.scores import score_rows
from diffdpo.config import parse
from diffdpo.data.bundled import bundled
from diffdpo.data.source import open_dataset
from diffdpo.engine.batches import Rows
from diffdpo.engine.console import say, start_lines
from diffdpo.engine.run_folder import begin, conclude, start_records
from diffdpo.engine.trainer import Trainer
from diffdpo.errors import UserError
from diffdpo.image.backbones import load_backbone, load_encoders
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.cache_keys import EncoderDigests, reference_key
from diffdpo.image.defaults import hub_options, name_bundled, resolve_resolution
from diffdpo.image.export import export
from diffdpo.image.latent_cache import store_encodings
from diffdpo.image.network import make_reference, make_trainable
from diffdpo.image.noise import ForwardProcess
from diffdpo.image.pairs import FrameSettings, ImagePairs, image_pairs
from diffdpo.image.settings import ImageSettings, image_objective
from diffdpo.image.task import DrawSettings, ImageTask
from diffdpo.image.validation import Validation
from diffdpo.reference import Reference

RECIPE = "scripts/recipes/emoji.yaml"
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main(argv: list[str]) -> int:
    """Parse, check, say what will happen, train, export; returns the exit code."""
    settings, notices = read_settings(argv)
    train(settings, begin(settings, notices))
    return 0


def read_settings(argv: list[str]) -> tuple[ImageSettings, list[str]]:
    """The settings, the bundled run's where no model is named, and notices about flags."""
    own_model = any(
        word.startswith(("--pretrained_model_name_or_path", "--config", "-h", "--help"))
        for word in argv
    )
    settings, notices = parse(ImageSettings, argv, base=None if own_model else bundled(RECIPE))
    name_bundled(settings)
    return settings, notices


@dataclass
class Prepared:
    """All that a run needs beside its settings, loaded and in place."""

    backbone: Backbone
    process: ForwardProcess
    pairs: ImagePairs
    network: nn.Module
    task: ImageTask
    rows: Rows  # the pairs, with reference scores where these are stored
    reference: Reference


def train(settings: ImageSettings, accelerator: Accelerator) -> None:
    """One run, from loading to export."""
    run = prepare(settings, accelerator)
    objective = image_objective(settings)
    trainer = Trainer(
        accelerator, settings, run.network, run.task, run.reference, objective, run.rows, say
    )
    start_lines(facts(settings, run, trainer))
    start_records(settings, accelerator)
    validation = Validation(
        settings, run.backbone, run.network, run.reference, run.pairs.prompts(), accelerator
    )
    done = trainer.fit(after_step=validation.after_step)
    if done == trainer.total_steps:
        validation.final(done)

    def write() -> Path:
        accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        return export(run.backbone, run.network, settings, trainer.recorder.journal.last())

    conclude(settings, accelerator, done, trainer.total_steps, write)


def prepare(settings: ImageSettings, accelerator: Accelerator) -> Prepared:
    """Load model and pairs; read or compute what is kept on disk."""
    place = (
        settings.pretrained_model_name_or_path or "",
        settings.pretrained_vae_model_name_or_path,
    )
    hub = hub_options(settings)
    backbone = load_backbone(
        *place, encoders=not settings.cache_latents or settings.run_validation, **hub
    )
    resolve(settings, backbone)
    pairs = load_pairs(settings, not accelerator.is_local_main_process)
    process = ForwardProcess(backbone.pipeline.scheduler.config, settings.is_turbo)
    dtype = DTYPES[settings.mixed_precision or "no"]
    backbone.place(accelerator.device, dtype)

    def load() -> None:
        load_encoders(backbone, *place, **hub)
        backbone.place(accelerator.device, dtype)

    stored = settings.cache_latents or settings.reference_draws
    encoders = (
        EncoderDigests.of(backbone, *place, hub, dtype, accelerator.device) if stored else None
    )
    embed = None
    if settings.cache_latents and encoders:
        embed = store_encodings(pairs, backbone, load, encoders, settings, accelerator)
    network = make_trainable(backbone, settings, dtype, accelerator.device)
    task = ImageTask(
        backbone, process, draw_settings(settings), accelerator.device, accelerator.autocast, embed
    )
    reference = make_reference(network, settings)
    run = Prepared(backbone, process, pairs, network, task, pairs, reference)
    if settings.reference_draws and encoders:
        store_reference(run, encoders, settings, accelerator)
    return run


def store_reference(
    run: Prepared, encoders: EncoderDigests, settings: ImageSettings, accelerator: Accelerator
) -> None:
    """Put stored scores in place of the reference."""
    network = network_digest(run.network)
    key = reference_key(run.pairs, run.process, encoders, network, settings)
    draws, batch, root = (
        settings.reference_draws,
        settings.train_batch_size,
        settings.precompute_dir,
    )
    run.rows, run.reference = score_rows(
        run.rows, run.task, run.network, run.reference, draws, batch, key, root, accelerator
    )


def resolve(settings: ImageSettings, backbone: Backbone) -> None:
    """Fill in what depends on the model. Raises UserError where a flag contradicts it."""
    resolve_resolution(settings, backbone)
    family = type(backbone).__name__
    if settings.sdxl and family != "StableDiffusionXL":
        raise UserError(
            f"--sdxl: {settings.pretrained_model_name_or_path} is a {family} pipeline; leave the"
            " flag out"
        )
    if settings.sft:
        settings.loss_type = "sft"


def load_pairs(settings: ImageSettings, quiet: bool) -> ImagePairs:
    """The training pairs, checked."""
    name = settings.dataset_name or ""
    dataset = open_dataset(
        name, settings.dataset_split_name, settings.dataset_config_name, settings.cache_dir
    )
    if settings.dreamlike_pairs_only:
        dataset = dreamlike(dataset)
    frame_at = FrameSettings(
        seed=settings.seed,
        resolution=settings.resolution or 0,
        random_crop=settings.random_crop,
        flip=not settings.no_hflip,
        ties=settings.ties,
        random_labels=settings.random_labels,
    )
    pairs = image_pairs(dataset, frame_at, name, (settings.image_column, settings.caption_column))
    pairs.limit(settings.max_train_samples, settings.seed)
    if not settings.cache_latents:  # those that are encoded are checked by that
        pairs.check(quiet)
    return pairs


def dreamlike(dataset):  # type: ignore[no-untyped-def]
    """The rows whose two images both come from a dreamlike model."""
    columns = ("model_0", "model_1")
    if not set(columns) <= set(dataset.column_names):
        raise UserError("--dreamlike_pairs_only needs the columns model_0 and model_1")
    models = [dataset[column][:] for column in columns]
    rows = [
        i
        for i, both in enumerate(zip(*models, strict=True))
        if all("dream" in str(m).lower() for m in both)
    ]
    if not rows:
        raise UserError("--dreamlike_pairs_only: no row has two dreamlike images")
    return dataset.select(rows)


def draw_settings(settings: ImageSettings) -> DrawSettings:
    """What the task needs of the settings."""
    return DrawSettings(
        seed=settings.seed,
        resolution=settings.resolution or 0,
        draws=settings.timesteps_per_pair,
        empty_prompts=settings.proportion_empty_prompts,
        noise_offset=settings.noise_offset,
        input_perturbation=settings.input_perturbation,
        vae_chunk=settings.vae_encode_batch_size,
    )


def facts(settings: ImageSettings, run: Prepared, trainer: Trainer) -> dict[str, str]:
    """What will happen, for the lines at the start."""
    backbone, pairs = run.backbone, run.pairs
    trained = sum(p.numel() for p in run.network.parameters() if p.requires_grad)
    cells = (
        backbone.vae_config.latent_channels
        * ((settings.resolution or 0) // backbone.pixel_factor) ** 2
    )
    kind = f"LoRA rank {settings.rank}" if settings.rank else "full fine-tune"
    lines = {
        "model": (
            f"{settings.pretrained_model_name_or_path} ({type(backbone).__name__},"
            f" {run.process.prediction_type}, {settings.resolution} px, {settings.mixed_precision}"
            " mixed precision)"
        ),
        "pairs": kept_pairs(settings, pairs),
        "training": f"{trained:,} parameters, {kind}; reference: {trainer.reference.name}",
        "loss": (
            f"{settings.loss_type}; beta {settings.beta_dpo:g} on the mean over latent dimensions "
            f"= {settings.beta_dpo / cells:.3g} on their sum"
        ),
        **trainer.plan("pairs"),
    }
    if pairs.tally.unreadable:
        lines["skipped"] = "; ".join(pairs.tally.unreadable[:3])
    return lines


def kept_pairs(settings: ImageSettings, pairs: ImagePairs) -> str:
    """What became of the rows of the data set."""
    tally = pairs.tally
    ties = f"{tally.ties} ties {'dropped' if settings.ties == 'drop' else 'kept as 50:50 labels'}"
    unread = (
        f"{len(tally.unreadable)} unreadable"
        if tally.checked
        else "images checked as they are read"
    )
    coin = "; LABELS TOSSED BY COIN" if settings.random_labels else ""
    return (
        f"{len(pairs):,} of {tally.rows:,} rows; {ties}, {tally.unlabelled} unlabelled,"
        f" {unread}{coin}"
    )
