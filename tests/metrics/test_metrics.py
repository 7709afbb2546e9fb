"""Rewards over the table; win rates and intervals against closed forms and simulation."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffdpo.metrics import REWARDS
from diffdpo.metrics.colourfulness import colourfulness
from diffdpo.metrics.implicit import Margins, by_timestep, overall
from diffdpo.metrics.intervals import clustered_mean, clustered_share, wilson, win_rate
from diffdpo.metrics.jpeg import jpeg_compressibility
from tests.factory import picture


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_gives_a_finite_number_a_picture_whatever_its_mode(name):
    pictures = [
        picture(0, (64, 64)),
        picture(1, (64, 64)).convert("L"),
        picture(2, (80, 48)).convert("RGBA"),
    ]
    found = np.asarray(REWARDS[name]()(pictures, ["a", "b", "c"]))
    assert found.shape == (3,)
    assert np.isfinite(found).all()
    again = np.asarray(REWARDS[name]()(pictures[:1], ["another prompt"]))
    assert again[0] == pytest.approx(found[0], abs=1e-4)


def test_colourfulness_by_hand():
    """One red and one blue pixel: rg = (255, 0), yb = (127.5, −255)."""
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8))
    spread = np.hypot(127.5, 191.25)
    assert colourfulness([image], [""])[0] == pytest.approx(spread + 0.3 * np.hypot(127.5, -63.75))
    assert colourfulness([Image.new("RGB", (4, 4), (9, 9, 9))], [""])[0] == 0


def test_flat_pictures_compress_better():
    flat, rough = jpeg_compressibility([Image.new("RGB", (64, 64)), picture(0, (64, 64))], ["", ""])
    assert rough < flat < 0


def test_win_rate_counts_ties_as_half():
    found = win_rate(np.array([2.0, 1.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0]), list("abcd"))
    assert (found.value, found.n, found.clusters) == (0.625, 4, 4)
    assert found.interval[0] < 0.625 < found.interval[1]


def test_the_interval_of_independent_values_is_the_normal_one():
    values = (np.arange(400) % 4 < 3).astype(float)
    low, high = clustered_mean(values, range(400)).interval
    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.006)


def test_copies_inside_a_cluster_do_not_narrow_the_interval():
    values = (np.arange(100) % 4 < 3).astype(float)
    alone = clustered_mean(values, range(100))
    copied = clustered_mean(np.repeat(values, 9), np.repeat(np.arange(100), 9))
    assert copied.interval == pytest.approx(alone.interval)
    assert (copied.n, copied.clusters) == (900, 100)


def test_certainty_is_never_claimed_from_a_few():
    found = clustered_share([1.0] * 20, range(20))
    assert found.value == 1
    assert found.interval == pytest.approx((0.8389, 1.0), abs=1e-3)  # Wilson, 20 of 20
    assert wilson(0.0, 20)[0] == 0


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        centres = random.normal(0.3, 1, 40)
        values = (centres[:, None] + random.normal(0, 1, (40, 2))).flatten()
        low, high = clustered_mean(values, np.repeat(np.arange(40), 2)).interval
        covered += low <= 0.3 <= high
    assert 88 <= covered <= 100


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        clustered_mean([], [])


def test_implicit_accuracy_overall_and_by_timestep():
    margin = torch.tensor([[3.0, -1.0], [-2.0, 1.0], [0.0, 0.0]])
    timestep = torch.tensor([[10, 900], [10, 900], [10, 900]])
    found = Margins(margin, timestep, ["a", "b", "c"])
    assert overall(found, 0).value == pytest.approx((1 + 0 + 0.5) / 3)
    rows = by_timestep(found, 1000, 0)
    assert [row["timesteps"] for row in rows] == [[0, 200], [800, 1000]]
    assert [row["value"] for row in rows] == [0.5, 0.5]
