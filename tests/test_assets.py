"""The bundled pipeline, pairs and judge are what their READMEs say."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline

from diffdpo.data.decode import open_image
from diffdpo.metrics import REWARDS

ASSETS = Path(__file__).parent.parent / "assets"
MODELS = {
    "emoji-pipeline": (StableDiffusionPipeline, {}),
    "emoji-flow": (StableDiffusion3Pipeline, {"max_sequence_length": 8}),
}
SPLITS = {"train": 300, "validation": 58, "test": 120}


def megabytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def pairs(split):
    return pd.read_parquet(ASSETS / "emoji-pairs" / f"{split}-00000.parquet")


def test_sizes():
    for model in MODELS:
        assert megabytes(ASSETS / model) <= 12.5
    assert megabytes(ASSETS / "emoji-pairs") <= 10
    assert megabytes(ASSETS / "style-judge") <= 1


def loaded(model):
    pipeline = DiffusionPipeline.from_pretrained(str(ASSETS / model))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("model", MODELS)
def test_a_pipeline_loads_and_draws(model):
    pipeline, (kind, options) = loaded(model), MODELS[model]
    assert type(pipeline) is kind
    generator = torch.Generator().manual_seed(0)
    picture = pipeline("red apple", num_inference_steps=2, generator=generator, **options).images[0]
    assert picture.size == (64, 64)


@torch.no_grad()
def test_the_flow_reads_no_more_than_its_two_text_encoders():
    pipeline = loaded("emoji-flow")
    rows, _, pooled, _ = pipeline.encode_prompt(
        ["red apple"], None, None, do_classifier_free_guidance=False
    )
    assert rows[:, :12].any()
    assert not rows[:, 12:].any()
    torch.manual_seed(0)
    noisy, time = torch.randn(1, 4, 16, 16), torch.tensor([700.0])
    few, many = (
        pipeline.transformer(noisy, rows[:, :length], pooled, time).sample for length in (20, 268)
    )
    other = pipeline.transformer(noisy, rows[:, :20], -pooled, time).sample
    # Trained with any number of empty rows: how many there are matters less than the prompt does.
    assert (few - many).norm() < 0.2 * (few - other).norm()


def test_the_flow_begins_at_unit_scale():
    """Its sampler starts from unit noise and ends at latents of the autoencoder's scale."""
    pipeline, row = loaded("emoji-flow"), next(pairs("test").itertuples())
    pixels = pipeline.image_processor.preprocess(open_image(row.jpg_0))
    latents = pipeline.vae.encode(pixels).latent_dist.mean
    assert 0.5 < latents.std() < 2
    assert (pipeline.vae.config.shift_factor, pipeline.vae.config.scaling_factor) == (0.0, 1.0)


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
