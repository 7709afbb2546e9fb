"""Pictures as candidates: what they are sampled by, what rewards say of them, rows of two."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Value
from PIL import Image
from torch import nn

from diffdpo.batched import batched
from diffdpo.cache.keys import CANDIDATES, Key, arithmetic, digest, files_digest
from diffdpo.engine.accelerator import usable_precision
from diffdpo.engine.digests import file_digest
from diffdpo.engine.run_config import is_checkpoint
from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.encoder_files import vae_identity, whole_identity
from diffdpo.image.bundled import GUIDANCE, draws_emoji
from diffdpo.image.lora_file import lora_in, lora_path
from diffdpo.image.model.policy import load_policy, move
from diffdpo.image.needs import gib
from diffdpo.image.pair_settings import PairSettings
from diffdpo.image.pictures.marks import evenly
from diffdpo.image.reading.inputs import open_pipeline, open_to_sample, prompts_to_sample
from diffdpo.image.sampling.sample import (
    PictureSettings,
    as_png,
    check_steps,
    sample,
    sheet,
    usual_guidance,
)
from diffdpo.metrics.judged import judged
from diffdpo.metrics.reward import Reward
from diffdpo.metrics.stored import signed_on
from diffdpo.pairs.make import Judge, Rows, Source, planned
from diffdpo.pairs.select import Chosen, Pair
from diffdpo.pairs.tables import Layout, called, candidate_seed

STORED = Features({"picture": Value("binary"), "seed": Value("int64"), "digest": Value("string")})
COLUMNS: dict[str, Any] = {"caption": Value("string")}
for side in ("0", "1"):
    COLUMNS |= {f"jpg_{side}": Value("binary"), f"label_{side}": Value("float64")}
    COLUMNS |= {f"seed_{side}": Value("int64"), f"model_{side}": Value("string")}
SHEET_ROWS = 24


def resolved(settings: PairSettings, device: torch.device) -> tuple[PairSettings, Backbone]:
    """Every setting at its final value, and the model without its weights, which decides some.

    Raises UserError where the model's sampler does not do what they ask for.
    """
    asked = settings.mixed_precision or "no"
    settings = replace(settings, mixed_precision=usable_precision(asked, device.type == "cpu"))
    settings, skeleton = open_pipeline(settings, encoders=False, network=False)
    if settings.guidance_scale is None:
        ours = draws_emoji(str(settings.pretrained_model_name_or_path))
        settings = replace(settings, guidance_scale=GUIDANCE if ours else usual_guidance(skeleton))
    check_steps(skeleton, PictureSettings.of(settings))
    return settings, skeleton


def prompts_of(settings: PairSettings) -> list[str]:
    """The distinct prompts to sample. Raises UserError where there is none."""
    prompts = [prompt for prompt in prompts_to_sample(settings) if prompt]
    if not prompts:
        raise UserError(f"data set {settings.dataset_name}: no pair has a prompt; name --prompts")
    return prompts[: settings.num_prompts]


def pictures_key(
    settings: PairSettings, skeleton: Backbone, prompts: Sequence[str], device: torch.device
) -> Key:
    """The key of the table of candidates: of files and settings, no weights are loaded."""
    name, hub = str(settings.pretrained_model_name_or_path), settings.hub_options
    vae, start = settings.pretrained_vae_model_name_or_path, settings.start
    facts = {
        "model": whole_identity(name, hub),
        "autoencoder": vae_identity(name, vae, hub) if vae else "the model's",
        "policy": policy_identity(settings.policy, skeleton.part),
        "start of training": f"{network_identity(start.unet_init, skeleton.part)}"
        f" {lora_identity(start.init_lora)} {start.reference}",
        "sampler": sampler_identity(skeleton),
        "--resolution": str(settings.resolution),
        "text": str(skeleton.text_options),
        "precision": str(settings.mixed_precision),
        "device": arithmetic(device),
        "prompts": digest(*prompts),
    }
    return Key.of("candidates", settings, CANDIDATES, facts)


def sampler_identity(skeleton: Backbone) -> str:
    """The scheduler and all of its settings."""
    scheduler = skeleton.pipeline.scheduler
    options = json.dumps(dict(scheduler.config), sort_keys=True, default=str)
    return f"{type(scheduler).__name__} {digest(options)}"


def policy_identity(policy: str | None, part: str) -> str:
    """A digest of the weights that a run has trained, or of a checkpoint of it."""
    if policy is None:
        return "the model itself"
    folder = Path(policy)
    if not is_checkpoint(folder) and (lora := lora_in(folder)):
        return file_digest(folder / lora)
    return files_digest(folder if is_checkpoint(folder) else folder / part)


def network_identity(name: str | None, part: str) -> str:
    """A digest of the files of a network, in its own folder or that of a pipeline; of a hub id its
    name."""
    folder = Path(name or "")
    if name is None or not folder.is_dir():
        return str(name)
    return files_digest(folder / part if (folder / part).is_dir() else folder)


def lora_identity(name: str | None) -> str:
    """A digest of a LoRA's file."""
    return str(name) if name is None else file_digest(lora_path(name))


@dataclass(frozen=True)
class Candidates:
    """Pictures that the settings' model or policy samples on ``device``, so many of each prompt as
    ``layout`` has."""

    settings: PairSettings
    prompts: list[str]
    layout: Layout
    device: torch.device

    @cached_property
    def opened(self) -> tuple[Backbone, nn.Module]:
        """The model and the network that samples, once they are needed."""
        return open_sampler(self.settings, self.device)

    def compute(self, span: range) -> Rows:
        """The rows ``span`` of the table of candidates."""
        (backbone, network), sampling = self.opened, PictureSettings.of(self.settings)
        for rows in batched(span, sampling.batch):
            both = [(self.prompts[prompt], number) for prompt, number in map(self.layout.of, rows)]
            texts = [text for text, _ in both]
            seeds = [candidate_seed(self.settings.seed, text, number) for text, number in both]
            pictures = sample(backbone, network, texts, seeds, sampling)
            for picture, seed in zip(pictures, seeds, strict=True):
                png = as_png(picture)
                yield {"picture": png, "seed": seed, "digest": digest(png)}

    def judge(self, name: str, reward: Reward) -> Judge:
        """What a reward says of stored candidates."""

        def scores(table: Dataset, rows: Sequence[int]) -> np.ndarray:
            both = [self.layout.of(row) for row in rows]
            names = called(self.prompts, both)
            pictures = [opened_picture(table[row]["picture"]) for row in rows]
            return judged(name, reward, names, pictures, [self.prompts[p] for p, _ in both])

        return Judge(reward.identity, signed_on(reward, self.device), scores)

    def row(self, table: Dataset, pair: Pair, rows: tuple[int, int]) -> dict[str, Any]:
        """A row to train on."""
        content: dict[str, Any] = {"caption": self.prompts[pair.prompt]}
        for side, number in enumerate(rows):
            stored = table[number]
            content |= {f"jpg_{side}": stored["picture"], f"seed_{side}": stored["seed"]}
            content[f"label_{side}"] = 1 - pair.label if side else pair.label
            content[f"model_{side}"] = self.settings.sampler
        return content

    def pages(self, table: Dataset, layout: Layout, chosen: Chosen) -> dict[str, bytes]:
        """A sheet of pairs, by the name of its file."""
        return {"sheet.png": as_png(page(table, layout, chosen, self.prompts))}


def picture_source(
    settings: PairSettings,
    skeleton: Backbone,
    prompts: list[str],
    rewards: Mapping[str, Reward],
    device: torch.device,
) -> Source:
    """Candidates that the settings' model or policy samples on ``device``, and their rewards."""
    made = Candidates(settings, prompts, Layout(len(prompts), settings.candidates), device)
    key = pictures_key(settings, skeleton, prompts, device)
    return Source(
        prompts=prompts,
        key=key,
        features=STORED,
        prepare=lambda: made.opened,
        compute=made.compute,
        judges={name: made.judge(name, reward) for name, reward in rewards.items()},
        facts=facts_of(settings, skeleton, key),
        sides=("0", "1"),
        columns=Features(COLUMNS),
        row=made.row,
        pages=made.pages,
    )


def open_sampler(settings: PairSettings, device: torch.device) -> tuple[Backbone, nn.Module]:
    """The model on ``device`` and the network that samples: the policy's, or its own."""
    _, backbone = open_to_sample(settings, device)
    network = backbone.network
    if settings.policy is not None:
        network, _ = load_policy(backbone, settings.policy, settings.start)
    move(backbone, device)
    return backbone, network


def opened_picture(content: bytes) -> Image.Image:
    """A stored picture, as training reads it."""
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture


def page(table: Dataset, layout: Layout, chosen: Chosen, prompts: Sequence[str]) -> Image.Image:
    """A sheet of pairs, evenly spread over all that are no ties: the chosen picture first."""
    pairs = [pair for pair in chosen.pairs if pair.gap] or chosen.pairs
    rows = []
    for number in evenly(np.arange(len(pairs)), SHEET_ROWS):
        pair = pairs[number]
        numbers = [layout.row(pair.prompt, candidate) for candidate in pair.chosen_first]
        pictures = [opened_picture(table[row]["picture"]) for row in numbers]
        rows.append((prompts[pair.prompt], pictures))
    return sheet(rows, ["chosen", "rejected"])


def facts_of(settings: PairSettings, skeleton: Backbone, key: Key) -> dict[str, Any]:
    """What the candidates are, for the record."""
    return {
        "model": settings.pretrained_model_name_or_path,
        "policy": settings.policy,
        "prompts": settings.prompts or settings.dataset_name,
        "sampler": type(skeleton.pipeline.scheduler).__name__,
        "steps": settings.num_inference_steps,
        "guidance": settings.guidance_scale,
        "resolution": settings.resolution,
        "precision": settings.mixed_precision,
        "seed": settings.seed,
        "identity": key.facts,
    }


def plan_lines(settings: PairSettings, skeleton: Backbone, source: Source) -> dict[str, str]:
    """What will happen, by heading."""
    count = len(source.prompts) * settings.candidates
    # Of noise, which compresses badly; other pictures take less.
    disk = 3 * (settings.resolution or 0) ** 2 * count
    steps = settings.num_inference_steps
    lines = {
        "sampling": (
            f"{settings.candidates} candidates of each, {count:,} pictures in all,"
            f" {steps * count:,} steps, at most {gib(disk)} GiB of disk"
        ),
        "sampler": (
            f"{settings.sampler}; {source.facts['sampler']}, {steps} steps, guidance"
            f" {settings.guidance_scale:g}, {settings.resolution} px, {settings.mixed_precision}"
            " mixed precision"
        ),
    }
    return planned(source, settings.prompts or settings.dataset_name, lines)
