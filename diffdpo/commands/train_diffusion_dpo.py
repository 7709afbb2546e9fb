"""Image preference training, from flags to exported result."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from diffdpo.assets import bundled
from diffdpo.config import parse
from diffdpo.data.source import open_dataset
from diffdpo.errors import UserError
from diffdpo.image.backbones import load_backbone
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.defaults import hub_options, name_bundled, resolve_resolution
from diffdpo.image.export import export
from diffdpo.image.network import make_reference, make_trainable
from diffdpo.image.noise import ForwardProcess
from diffdpo.image.pairs import FrameSettings, ImagePairs, image_pairs
from diffdpo.image.settings import ImageSettings
from diffdpo.image.task import DrawSettings, ImageTask
from diffdpo.image.validation import Validation
from diffdpo.losses import LOSSES
from diffdpo.objective import Objective, loss_options
from diffdpo.run import begin, conclude, say, start_lines, start_records
from diffdpo.trainer import Trainer

RECIPE = "scripts/recipes/emoji.yaml"
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main(argv: list[str]) -> int:
    """Parse, check, say what will happen, train, export; returns the exit code."""
    own_model = any(word.startswith(("--pretrained_model_name_or_path", "--config", "-h", "--help")) for word in argv)
    settings, notices = parse(ImageSettings, argv, base=None if own_model else bundled(RECIPE))
    name_bundled(settings)
    train(settings, begin(settings, notices))
    return 0


def train(settings: ImageSettings, accelerator: Accelerator) -> None:
    """One run, from loading to export."""
    name = settings.pretrained_model_name_or_path or ""
    backbone = load_backbone(name, settings.pretrained_vae_model_name_or_path, **hub_options(settings))
    resolve(settings, backbone)
    pairs = load_pairs(settings, not accelerator.is_local_main_process)
    process = ForwardProcess(backbone.pipeline.scheduler.config, settings.is_turbo)
    dtype = DTYPES[settings.mixed_precision or "no"]
    backbone.place(accelerator.device, dtype)
    network = make_trainable(backbone, settings, dtype, accelerator.device)
    task = ImageTask(backbone, process, draw_settings(settings), accelerator.device, accelerator.autocast)
    reference = make_reference(network, settings)
    scale = 1.0 if LOSSES[settings.loss_type].reference_free else settings.beta_dpo
    objective = Objective(settings.loss_type, scale=scale, options=loss_options(settings))
    trainer = Trainer(accelerator, settings, network, task, reference, objective, pairs, say)
    start_lines(facts(settings, backbone, process, pairs, network, trainer))
    start_records(settings, accelerator)
    validation = Validation(settings, backbone, network, reference, pairs.prompts(), accelerator)
    done = trainer.fit(after_step=validation.after_step)
    if done == trainer.total_steps:
        validation.final(done)

    def write() -> Path:
        accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        return export(backbone, network, settings, trainer.journal.last())

    conclude(settings, accelerator, done, trainer.total_steps, write)


def resolve(settings: ImageSettings, backbone: Backbone) -> None:
    """Fill in what depends on the model. Raises UserError where a flag contradicts it."""
    resolve_resolution(settings, backbone)
    family = type(backbone).__name__
    if settings.sdxl and family != "StableDiffusionXL":
        raise UserError(f"--sdxl: {settings.pretrained_model_name_or_path} is a {family} pipeline; leave the flag out")
    if settings.sft:
        settings.loss_type = "sft"


def load_pairs(settings: ImageSettings, quiet: bool) -> ImagePairs:
    """The training pairs, checked."""
    name = settings.dataset_name or ""
    dataset = open_dataset(name, settings.dataset_split_name, settings.dataset_config_name, settings.cache_dir)
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
    pairs.check(quiet)
    return pairs


def dreamlike(dataset):  # type: ignore[no-untyped-def]
    """The rows whose two images both come from a dreamlike model."""
    columns = ("model_0", "model_1")
    if not set(columns) <= set(dataset.column_names):
        raise UserError("--dreamlike_pairs_only needs the columns model_0 and model_1")
    models = [dataset[column][:] for column in columns]
    rows = [i for i, both in enumerate(zip(*models, strict=True)) if all("dream" in str(m).lower() for m in both)]
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


def facts(
    settings: ImageSettings,
    backbone: Backbone,
    process: ForwardProcess,
    pairs: ImagePairs,
    network: nn.Module,
    trainer: Trainer,
) -> dict[str, str]:
    """What will happen, for the lines at the start."""
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    cells = backbone.vae.config.latent_channels * ((settings.resolution or 0) // backbone.pixel_factor) ** 2
    kind = f"LoRA rank {settings.rank}" if settings.rank else "full fine-tune"
    lines = {
        "model": f"{settings.pretrained_model_name_or_path} ({type(backbone).__name__}, {process.prediction_type}, "
        f"{settings.resolution} px, {settings.mixed_precision} mixed precision)",
        "pairs": kept_pairs(settings, pairs),
        "training": f"{trained:,} parameters, {kind}; reference: {trainer.reference.name}",
        "loss": f"{settings.loss_type}; beta {settings.beta_dpo:g} on the mean over latent dimensions "
        f"= {settings.beta_dpo / cells:.3g} on their sum",
        **trainer.plan("pairs"),
    }
    if pairs.tally.unreadable:
        lines["skipped"] = "; ".join(pairs.tally.unreadable[:3])
    return lines


def kept_pairs(settings: ImageSettings, pairs: ImagePairs) -> str:
    """What became of the rows of the data set."""
    tally = pairs.tally
    ties = f"{tally.ties} ties {'dropped' if settings.ties == 'drop' else 'kept as 50:50 labels'}"
    unread = f"{len(tally.unreadable)} unreadable" if tally.checked else "images checked as they are read"
    coin = "; LABELS TOSSED BY COIN" if settings.random_labels else ""
    return f"{len(pairs):,} of {tally.rows:,} rows; {ties}, {tally.unlabelled} unlabelled, {unread}{coin}"
