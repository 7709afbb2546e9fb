"""Samples two pictures for each prompt, lets a reward choose, and writes a Pick-a-Pic data set."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from diffdpo.engine.accelerator import DTYPES, sampling_device
from diffdpo.engine.console import say
from diffdpo.engine.files import atomic_file
from diffdpo.engine.run_folder import writable
from diffdpo.errors import UserError, short
from diffdpo.image.evaluate_settings import PairSettings
from diffdpo.image.framing import FrameSettings
from diffdpo.image.inputs import open_pairs, open_to_sample
from diffdpo.image.sample import PictureSettings, as_png, check_sampling, sample, seeds_for
from diffdpo.metrics import open_rewards
from diffdpo.metrics.judged import scores_of
from diffdpo.report.evaluation import writing


def main(settings: PairSettings) -> int:
    """Sample, score, write; returns the exit code."""
    folder = writable(settings.output_dir)
    path = folder / f"{settings.dataset_split_name}-00000.parquet"
    if path.exists():
        raise UserError(f"--output_dir {folder}: holds {path.name} already; choose another")
    device = sampling_device()
    precision = DTYPES[settings.reward_precision]
    rewards = open_rewards(settings.reward, settings.reward_paths, device, precision)
    (name, reward), *_ = rewards.items()
    settings, backbone = open_to_sample(settings, device)
    prompts = source_prompts(settings)
    twice = [prompt for prompt in prompts for _ in range(2)]
    sampling = PictureSettings.of(settings)
    check_sampling(backbone, len(twice), sampling)
    backbone.pipeline.to(device)
    seeds = seeds_for(settings.seed, len(twice))
    pictures = sample(backbone, backbone.network, twice, seeds, sampling, "sampling")
    names = [f"picture {at % 2 + 1} of prompt {short(p, 60)!r}" for at, p in enumerate(twice)]
    batch = settings.reward_batch_size
    score = scores_of(name, reward, names, pictures, twice, batch, "scoring").reshape(-1, 2)
    both = [slice(2 * i, 2 * i + 2) for i in range(len(prompts))]
    rows = [
        row(prompt, pictures[two], seeds[two], score[i], name)
        for i, (prompt, two) in enumerate(zip(prompts, both, strict=True))
    ]
    with writing(folder), atomic_file(path) as draft:
        Dataset.from_list(rows).to_parquet(draft)
    say(f"pairs        {len(rows)}, mean gap {np.abs(np.diff(score)).mean():.3g} by {name}; {path}")
    return 0


def source_prompts(settings: PairSettings) -> list[str]:
    """The distinct prompts of the split."""
    # With ties kept: their prompts are as good as others.
    framing = FrameSettings(settings.seed, settings.resolution or 0, ties="soft")
    return list(dict.fromkeys(open_pairs(settings, framing).prompts()))


def row(
    prompt: str,
    pictures: list[Image.Image],
    seeds: list[int],
    score: np.ndarray,
    reward: str,
) -> dict[str, Any]:
    """One row in the Pick-a-Pic schema, with the scores and the sampler's seeds; equal scores are a
    tie."""
    label = (np.sign(score[0] - score[1]) + 1) / 2
    row: dict[str, Any] = {"caption": prompt, "label_0": float(label), "label_1": float(1 - label)}
    for side, picture in enumerate(pictures):
        row |= {f"jpg_{side}": as_png(picture), f"{reward}_{side}": float(score[side])}
        row[f"seed_{side}"] = seeds[side]
    return row
