"""Tests of one figure and of several, power, diversity, drift: against closed forms and brute
force."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from PIL import Image

from diffdpo.metrics.diversity import between_seeds, open_tower, pixel_embedding
from diffdpo.metrics.drift import clipped_share, distance
from diffdpo.metrics.implicit import Margins, winners_error
from diffdpo.metrics.intervals import clustered_share
from diffdpo.metrics.significance import half_width, holm, resolution, sign_flip
from tests.factory import picture


def test_all_choices_of_signs_are_looked_at_where_clusters_are_few():
    values = [0.5, 0.5, -0.5, 0.0, 0.5, 0.5, 0.5]
    clusters = ["a", "a", "b", "b", "c", "d", "e"]
    totals = [1.0, -0.5, 0.5, 0.5, 0.5]
    met = abs(sum(totals))
    sums = [abs(np.dot(signs, totals)) for signs in product((-1, 1), repeat=5)]
    assert sign_flip(values, clusters) == sum(total >= met for total in sums) / 32
    # Five wins of five: only two choices of 32 are as far from 0.
    assert sign_flip([0.5] * 5, range(5)) == 2 / 32
    assert sign_flip([0.0] * 5, range(5)) == 1


def test_many_clusters_are_tested_at_random_and_as_the_normal_law_says():
    random = np.random.default_rng(0)
    values = (random.random(400) < 0.56) - 0.5
    # Sums are whole numbers: half of one is the correction for continuity.
    z = (abs(values.sum()) - 0.5) / np.sqrt(np.square(values).sum())
    normal = 1 - torch.erf(torch.tensor(z / np.sqrt(2))).item()
    assert sign_flip(values, range(400), seed=1) == pytest.approx(normal, abs=0.015)
    assert sign_flip([0.5] * 400, range(400)) == 1 / 10_001


def test_holm_by_hand():
    given = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert holm(given) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.2}) == {"a": 0.2}


def test_the_power_said_before_is_the_width_met_after():
    """Of 1,600 prompts of one picture each, at a win rate of one half."""
    estimate = clustered_share([0.0, 1.0] * 800, range(1600))
    low, high = estimate.interval
    assert (high - low) / 2 == pytest.approx(half_width(1600), rel=0.05)
    assert resolution(120) == "120 prompts resolve ±9 points"
    assert resolution(10_000) == "10,000 prompts resolve ±1.0 points"
    assert resolution(1) == "1 prompt resolves ±98 points"


def test_diversity_is_one_minus_the_mean_cosine_of_all_pairs():
    embedding = np.random.default_rng(0).normal(size=(3, 4, 7))
    unit = embedding / np.linalg.norm(embedding, axis=2, keepdims=True)
    by_hand = [
        1 - np.mean([np.dot(one[i], one[j]) for i, j in combinations(range(4), 2)]) for one in unit
    ]
    assert between_seeds(embedding) == pytest.approx(by_hand)
    alike = np.repeat(embedding[:, :1], 4, axis=1)
    assert between_seeds(alike) == pytest.approx([0, 0, 0])
    assert between_seeds(5 * np.eye(4)[None]) == pytest.approx([1])


def test_the_plain_embedding_sees_colours_and_places():
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    left, right = (Image.new("RGB", (16, 16)) for _ in range(2))
    left.paste("white", (0, 0, 8, 16))
    right.paste("white", (8, 0, 16, 16))
    embedding = pixel_embedding([red, blue, left, right])
    assert np.linalg.norm(embedding, axis=1) == pytest.approx([np.sqrt(2)] * 4)
    same, other, sides = (
        between_seeds(embedding[None, list(pair)])[0] for pair in ((0, 0), (0, 1), (2, 3))
    )
    assert same == pytest.approx(0)
    assert other > 0.9
    assert 0.3 < sides < 0.6  # the same colours elsewhere


def test_a_clip_tower_embeds_pictures_and_is_named_by_its_weights(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                              num_attention_heads=2, image_size=32, patch_size=16,
                              projection_dim=8)  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    tower = open_tower(str(tmp_path), torch.device("cpu"), torch.float32)
    pictures = [picture(seed, (48, 40)) for seed in range(3)]
    found = tower.embed(pictures)
    assert found.shape == (3, 8)
    assert np.allclose(tower.embed(pictures[1:2])[0], found[1], atol=1e-6)
    assert tower.name.startswith("CLIP ")
    assert "32 px" in tower.name


def test_drift_of_plain_pictures():
    white, grey = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), (250, 249, 10))
    assert clipped_share([white, grey]).tolist() == [1.0, pytest.approx(1 / 3)]
    assert distance([white, white], [white, grey]) == pytest.approx([0, (5 + 6 + 245) / 3])


def test_the_winners_error_is_minus_two_scores():
    policy, reference = torch.tensor([[-1.0, -2.0], [-3.0, -3.0]]), torch.full((2, 2), -1.0)
    margins = Margins(policy, policy, ["a", "b"], torch.stack([policy, reference], dim=2))
    found = winners_error(margins, 0)
    assert (found["policy"], found["reference"]) == (4.5, 2.0)
    assert found["difference"].value == 2.5
