"""The bundled pipeline, pairs and judge are what their READMEs say."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline

from diffdpo.image.decode import open_image
from diffdpo.metrics import REWARDS

ASSETS = Path(__file__).parent.parent / "assets"
SPLITS = {"train": 300, "validation": 58, "test": 120}


def megabytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def pairs(split):
    return pd.read_parquet(ASSETS / "emoji-pairs" / f"{split}-00000.parquet")


def test_sizes():
    assert megabytes(ASSETS / "emoji-pipeline") <= 12
    assert megabytes(ASSETS / "emoji-pairs") <= 10
    assert megabytes(ASSETS / "style-judge") <= 1


def test_the_pipeline_loads_and_draws():
    pipeline = StableDiffusionPipeline.from_pretrained(str(ASSETS / "emoji-pipeline"))
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(
        "red apple", num_inference_steps=2, generator=torch.Generator().manual_seed(0)
    ).images[0]
    assert picture.size == (64, 64)


def test_captions_of_the_three_sets_are_disjoint():
    captions = {split: set(pairs(split).caption) for split in SPLITS}
    assert {split: len(found) for split, found in captions.items()} == SPLITS
    assert not captions["train"] & captions["validation"]
    assert not captions["test"] & (captions["train"] | captions["validation"])


@pytest.mark.parametrize("split", SPLITS)
def test_the_preferred_artist_wins_and_both_pictures_are_real(split):
    for row in pairs(split).itertuples():
        assert {open_image(row.jpg_0).size, open_image(row.jpg_1).size} == {(64, 64)}
        winner = {1.0: row.model_0, 0.0: row.model_1}.get(row.label_0)
        assert winner == "fluent-3d" or (row.label_0 == 0.5 and row.jpg_0 == row.jpg_1)


def test_the_judge_is_as_accurate_as_its_file_says_on_pairs_it_has_not_seen():
    said = json.loads((ASSETS / "style-judge" / "config.json").read_text())
    rows = pairs("test")
    judge = REWARDS["style"]()
    scores = [
        judge([open_image(value) for value in rows[column]], rows.caption)
        for column in ("jpg_0", "jpg_1")
    ]
    fluent = [(rows[column] == "fluent-3d").to_numpy() for column in ("model_0", "model_1")]
    right = sum(
        ((score > 0) == truth).sum() for score, truth in zip(scores, fluent, strict=True)
    ) / (2 * len(rows))
    assert right == pytest.approx(said["test_pairs_accuracy"], abs=0.005)
    assert right > 0.85
