"""Compares policy and reference: pictures, their rewards, implicit accuracy on pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from diffdpo.engine.accelerator import DTYPES
from diffdpo.errors import short
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.lora import EveryAdapterOff
from diffdpo.image.pairs import ImagePairs
from diffdpo.image.processes import process_for
from diffdpo.image.sample import PictureSettings, sample, seeds_for, sheet
from diffdpo.image.task import DrawSettings, ImageTask
from diffdpo.metrics.implicit import by_timestep, implicit_margins, overall
from diffdpo.metrics.intervals import Estimate, clustered_mean, win_rate
from diffdpo.metrics.judged import scores_of
from diffdpo.metrics.reward import Reward
from diffdpo.reference import Reference

SHEET_ROWS = 24


@dataclass(frozen=True)
class Accuracy:
    """Implicit accuracy, and the same by timestep."""

    estimate: Estimate
    draws: int
    by_timestep: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rest = {"draws": self.draws, "by_timestep": self.by_timestep}
        return {**self.estimate.as_dict(), **rest}


@dataclass(frozen=True)
class Pictures:
    """The pictures of reference and policy, ``times`` of them for each prompt."""

    prompts: list[str]  # the prompt of every picture
    times: int
    before: list[Image.Image]
    after: list[Image.Image]

    def names(self, side: str) -> list[str]:
        """What each picture of one side is, for an error line."""
        return [
            f"picture {index % self.times + 1} of the {side}, prompt {short(prompt, 60)!r}"
            for index, prompt in enumerate(self.prompts)
        ]


def draw_pictures(
    settings: EvaluateSettings,
    backbone: Backbone,
    network: nn.Module,
    reference: Reference,
    prompts: Sequence[str],
) -> Pictures:
    """Pictures of reference and policy at the same prompts and seeds."""
    repeated = [prompt for prompt in prompts for _ in range(settings.images_per_prompt)]
    seeds = seeds_for(settings.seed, len(repeated))
    sampling = PictureSettings.of(settings)
    with reference.network(network) as frozen:
        before = sample(backbone, frozen, repeated, seeds, sampling, "sampling reference")
    after = sample(backbone, network, repeated, seeds, sampling, "sampling policy")
    return Pictures(repeated, settings.images_per_prompt, before, after)


def judge(
    pictures: Pictures, rewards: Mapping[str, Reward], seed: int, batch: int
) -> dict[str, dict[str, Any]]:
    """Win rate, mean difference and both mean rewards, for every reward.

    Raises UserError where a reward fails on a picture or gives no finite number for it.
    """
    rows, prompts = {}, pictures.prompts
    for name, reward in rewards.items():
        old = scores_of(name, reward, pictures.names("reference"), pictures.before, prompts, batch)
        new = scores_of(name, reward, pictures.names("policy"), pictures.after, prompts, batch)
        rows[name] = {
            "win_rate": win_rate(new, old, prompts, seed),
            "difference": clustered_mean((new - old).tolist(), prompts, seed),
            "reference_mean": float(old.mean()),
            "policy_mean": float(new.mean()),
        }
    return rows


def implicit_accuracy(
    settings: EvaluateSettings,
    backbone: Backbone,
    pairs: ImagePairs,
    network: nn.Module,
    reference: Reference,
    device: torch.device,
) -> Accuracy:
    """Implicit accuracy, overall and by timestep: errors in float32, the network in the precision
    of the settings."""
    # No prompt dropout, flips or random crops here: those belong to training.
    process = process_for(backbone, settings)
    draws = DrawSettings(
        settings.seed,
        settings.resolution or 0,
        noise_offset=settings.noise_offset,
        vae_chunk=settings.vae_encode_batch_size,
    )
    # Adapters of the text encoders are the policy's alone, in what it is conditioned on as well.
    both = reference.encode_prompts if isinstance(reference, EveryAdapterOff) else None
    half = DTYPES[settings.mixed_precision or "no"]

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, half, enabled=half != torch.float32)

    task = ImageTask(backbone, process, draws, device, autocast, both)
    margins = implicit_margins(
        pairs, task, network, reference, settings.implicit_draws, settings.sample_batch_size
    )
    buckets = by_timestep(margins, process.timesteps, settings.seed)
    return Accuracy(overall(margins, settings.seed), settings.implicit_draws, buckets)


def picture_page(pictures: Pictures) -> Image.Image:
    """The first picture of each prompt, of reference and policy."""
    # In two sheets side by side, so that the page is about as wide as tall.
    firsts = [side[:: pictures.times] for side in (pictures.before, pictures.after)]
    prompts = pictures.prompts[:: pictures.times]
    rows = list(zip(prompts, zip(*firsts, strict=True), strict=True))[:SHEET_ROWS]
    half = -(-len(rows) // 2)
    sides = [
        sheet(column, ["reference", "policy"]) for column in (rows[:half], rows[half:]) if column
    ]
    width = sum(side.width for side in sides) + 20 * (len(sides) - 1)
    page = Image.new("RGB", (width, sides[0].height), "white")
    for index, side in enumerate(sides):
        page.paste(side, (index * (sides[0].width + 20), 0))
    return page
