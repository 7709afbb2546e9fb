"""Compares policies and reference: implicit accuracy on pairs, pictures and what they are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from diffdpo.engine.accelerator import DTYPES
from diffdpo.errors import short
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.model.lora import EveryAdapterOff
from diffdpo.image.process.processes import process_for
from diffdpo.image.reading.pairs import ImagePairs
from diffdpo.image.sampling.sample import sheet
from diffdpo.image.sampling.samples import PictureFiles, Planned
from diffdpo.image.scoring.collation import DrawSettings
from diffdpo.image.task import ImageTask
from diffdpo.metrics.colourfulness import colourfulness
from diffdpo.metrics.difficulty import Difficulty, by_difficulty
from diffdpo.metrics.diversity import Tower
from diffdpo.metrics.drift import clipped_share, distance
from diffdpo.metrics.implicit import (
    Margins,
    by_timestep,
    implicit_margins,
    overall,
    winners_error,
)
from diffdpo.metrics.intervals import Estimate
from diffdpo.metrics.judged import scores_of
from diffdpo.metrics.reward import Reward
from diffdpo.reference import Reference

SHEET_ROWS = 24
NARROW = 4  # columns of a sheet, of which two stand beside each other


@dataclass(frozen=True)
class Accuracy:
    """Implicit accuracy, the same by timestep, and what became of the chosen picture's error."""

    estimate: Estimate
    draws: int
    by_timestep: list[dict[str, Any]]
    winner: dict[str, Any]
    difficulty: Difficulty
    margins: Margins  # of the pairs, from which all of this is
    timestep_range: list[float]  # of all t, the part that was drawn from

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rest = {
            "draws": self.draws,
            "timestep_range": self.timestep_range,
            "by_timestep": self.by_timestep,
            "winners_error": self.winner,
        }
        return {**self.estimate.as_dict(), **rest, "by_difficulty": self.difficulty.as_dict()}


@dataclass(frozen=True)
class Traits:
    """What the ``N`` pictures of one policy are like, whatever a reward makes of them."""

    embedding_ND: np.ndarray
    clipped_N: np.ndarray  # the share of values that are 250 or more
    colour_N: np.ndarray
    distance_N: np.ndarray  # from the reference's picture of the same seed


def scored(
    name: str,
    reward: Reward,
    side: str,
    planned: Sequence[Planned],
    files: PictureFiles,
    batch: int,
) -> np.ndarray:
    """The scores ``(N,)`` of one policy's pictures, which an error line calls those of ``side``.

    Raises UserError where the reward fails on a picture or gives no finite number for it.
    """
    names = [f"picture {p.number + 1} of the {side}, prompt {short(p.prompt, 60)!r}"
             for p in planned]  # fmt: skip
    prompts = [picture.prompt for picture in planned]
    return scores_of(name, reward, names, files, prompts, batch, f"judging {side} by {name}")


def traits(files: PictureFiles, reference: PictureFiles, tower: Tower, batch: int) -> Traits:
    """What pictures are like, ``batch`` of them at a time."""
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for start in range(0, len(files), batch):
        part = slice(start, start + batch)
        pictures, others = files[part], reference[part]
        found = tower.embed(pictures), clipped_share(pictures), colourfulness(pictures, [])
        for column, values in zip(columns, (*found, distance(pictures, others)), strict=True):
            column.append(values)
    return Traits(*(np.concatenate(column) for column in columns))


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
    winner = winners_error(margins, settings.seed)
    control = by_difficulty(margins, settings.seed)
    share = overall(margins, settings.seed)
    drawn = settings.timestep_range
    return Accuracy(share, settings.implicit_draws, buckets, winner, control, margins, drawn)


def picture_page(
    prompts: Sequence[str],
    columns: Mapping[str, Sequence[Image.Image]],
    preferred: Mapping[str, tuple[Image.Image, Image.Image]],
) -> Image.Image:
    """The first picture of each prompt: a column for each network, behind the chosen and the
    rejected picture of a pair with that prompt, where ``preferred`` has one."""
    shown = list(prompts)[:SHEET_ROWS]
    # Cut before anything is read: the pictures lie on the disk.
    names, sides = list(columns), [list(pictures[: len(shown)]) for pictures in columns.values()]
    if any(prompt in preferred for prompt in shown):
        blank = Image.new("RGB", sides[0][0].size, "white")
        both = [preferred.get(prompt, (blank, blank)) for prompt in shown]
        names = ["chosen", "rejected", *names]
        sides = [[pair[0] for pair in both], [pair[1] for pair in both], *sides]
    rows = list(zip(shown, zip(*sides, strict=True), strict=True))
    # In two sheets side by side, so that the page is about as wide as tall.
    half = -(-len(rows) // 2) if len(names) <= NARROW else len(rows)
    sheets = [sheet(part, names) for part in (rows[:half], rows[half:]) if part]
    width = sum(side.width for side in sheets) + 20 * (len(sheets) - 1)
    page = Image.new("RGB", (width, sheets[0].height), "white")
    for index, side in enumerate(sheets):
        page.paste(side, (index * (sheets[0].width + 20), 0))
    return page


def preferred_pictures(
    pairs: ImagePairs, prompts: Sequence[str]
) -> dict[str, tuple[Image.Image, Image.Image]]:
    """The chosen and the rejected picture of the first pair of each of the prompts on a sheet."""
    texts, wanted, found = pairs.prompts(), set(prompts[:SHEET_ROWS]), dict[str, Any]()
    for row, prompt in enumerate(texts):
        if prompt in wanted and prompt not in found:
            item = pairs.read(row, 0)
            found[prompt] = tuple(as_picture(side) for side in (item.chosen, item.rejected))
    return found


def as_picture(framed: Any) -> Image.Image:
    """A picture as training reads it, of clips the middle frame, from values of -1 to 1."""
    pixels = framed.pixels_CHW
    if pixels.dim() == 4:  # frames are beside each other in the second dimension
        pixels = pixels[:, pixels.shape[1] // 2]
    values = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).numpy())
