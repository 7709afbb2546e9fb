"""Labelling as a step of its own: sample two pictures a prompt, let a reward choose, write a
Pick-a-Pic data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from diffdpo.config import BaseSettings, flag, one_of, parse
from diffdpo.data.source import open_dataset
from diffdpo.engine.console import say
from diffdpo.engine.run_folder import writable
from diffdpo.image.backbones import load_backbone
from diffdpo.image.defaults import hub_options, name_bundled, resolve_resolution
from diffdpo.image.pairs import FrameSettings, image_pairs
from diffdpo.image.sample import SampleSettings, as_png, sample, seeds_for
from diffdpo.image.settings import ImageDataSettings
from diffdpo.metrics import REWARDS


@dataclass
class PairSettings(ImageDataSettings, BaseSettings):
    """All flags of ``make_pairs.py``; the prompts are those of the data set."""

    reward: str = flag(
        "colourfulness", "a row of diffdpo.metrics.REWARDS; the higher score is preferred"
    )
    output_dir: str = flag("runs/pairs", "folder of the new data set")
    num_inference_steps: int = flag(20, "sampling steps")
    guidance_scale: float = flag(
        1.5, "classifier-free guidance; low, so that the two pictures differ"
    )
    sample_batch_size: int = flag(16, "pictures sampled at once")
    seed: int = flag(1, "of the starting noise")

    def problems(self) -> list[str]:
        return one_of("reward", self.reward, list(REWARDS))


def main(argv: list[str]) -> int:
    """Sample, score, write; returns the exit code."""
    settings, notices = parse(PairSettings, argv)
    say(*notices)
    name_bundled(settings)
    folder, reward = writable(settings.output_dir), REWARDS[settings.reward]()
    name = settings.pretrained_model_name_or_path or ""
    backbone = load_backbone(
        name, settings.pretrained_vae_model_name_or_path, **hub_options(settings)
    )
    resolve_resolution(settings, backbone)
    prompts = source_prompts(settings)
    twice = [prompt for prompt in prompts for _ in range(2)]
    how = SampleSettings(
        settings.num_inference_steps,
        settings.guidance_scale,
        settings.sample_batch_size,
        settings.resolution,
    )
    pictures = sample(
        backbone, backbone.network, twice, seeds_for(settings.seed, len(twice)), how, "sampling"
    )
    score = np.asarray(reward(pictures, twice)).reshape(-1, 2)
    rows = [
        row(p, pictures[2 * i : 2 * i + 2], score[i], settings.reward)
        for i, p in enumerate(prompts)
    ]
    path = folder / f"{settings.dataset_split_name}-00000.parquet"
    Dataset.from_list(rows).to_parquet(path)
    say(
        f"pairs        {len(rows)}, mean gap {np.abs(np.diff(score)).mean():.3g} by"
        f" {settings.reward}; {path}"
    )
    return 0


def source_prompts(settings: PairSettings) -> list[str]:
    """The distinct prompts of the split."""
    name = settings.dataset_name or ""
    dataset = open_dataset(
        name, settings.dataset_split_name, settings.dataset_config_name, settings.cache_dir
    )
    frame_at = FrameSettings(settings.seed, settings.resolution or 0, ties="soft")
    pairs = image_pairs(dataset, frame_at, name, (settings.image_column, settings.caption_column))
    return list(dict.fromkeys(pairs.prompts()))


def row(prompt: str, pictures: list[Image.Image], score: np.ndarray, reward: str) -> dict[str, Any]:
    """One row in the Pick-a-Pic schema; equal scores are a tie."""
    label = (np.sign(score[0] - score[1]) + 1) / 2
    row: dict[str, Any] = {"caption": prompt, "label_0": float(label), "label_1": float(1 - label)}
    for side, picture in enumerate(pictures):
        row |= {f"jpg_{side}": as_png(picture), f"{reward}_{side}": float(score[side])}
    return row
