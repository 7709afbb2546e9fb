"""Rewards over the table; win rates and intervals against closed forms and simulation."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from diffdpo.draws import Purpose, generator
from diffdpo.errors import UserError
from diffdpo.metrics import REWARDS, intervals
from diffdpo.metrics.colourfulness import colourfulness
from diffdpo.metrics.implicit import Margins, by_timestep, overall
from diffdpo.metrics.intervals import Estimate, clustered_mean, clustered_share, wilson, win_rate
from diffdpo.metrics.jpeg import jpeg_compressibility
from tests.factory import picture
from tests.metrics import tiny


@pytest.mark.parametrize("name", [name for name in REWARDS if name != "judge"])
def test_every_reward_gives_a_finite_number_a_picture_whatever_its_mode(name, tmp_path):
    reward = REWARDS[name](str(tiny.SAVE[name](tmp_path)) if name in tiny.SAVE else None)
    pictures = [
        picture(0, (64, 64)),
        picture(1, (64, 64)).convert("L"),
        picture(2, (80, 48)).convert("RGBA"),
    ]
    scores = np.asarray(reward(pictures, ["a", "b", "c"]))
    assert scores.shape == (3,)
    assert np.isfinite(scores).all()
    again = np.asarray(reward(pictures[:1], ["another prompt"]))
    if name not in tiny.WITH_WEIGHTS:  # of those some read prompts, see test_networks.py
        assert again[0] == pytest.approx(scores[0], abs=1e-4)


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
    estimate = win_rate(
        np.array([2.0, 1.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0, 0.0]), list("abcd")
    )
    assert (estimate.value, estimate.n, estimate.clusters) == (0.625, 4, 4)
    assert estimate.interval[0] < 0.625 < estimate.interval[1]


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
    estimate = clustered_share([1.0] * 20, range(20))
    assert estimate.value == 1
    assert estimate.interval == pytest.approx((0.8389, 1.0), abs=1e-3)  # Wilson, 20 of 20
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


def test_one_prompt_proves_nothing():
    wins = [1.0] * 7 + [0.0] * 3
    share = clustered_share(wins, ["one prompt"] * 10)
    assert share.interval == pytest.approx(wilson(0.7, 1))
    assert share.interval[0] < 0.5 < share.interval[1]
    assert share.percent() == "70.0 % [10.3, 97.9] (too few: 1 prompt)"
    mean = clustered_mean(wins, ["one prompt"] * 10)
    assert mean.interval == (-np.inf, np.inf)
    assert mean.as_dict()["interval"] == [None, None]
    assert json.loads(json.dumps(mean.as_dict(), allow_nan=False))["method"] == "none"


@pytest.mark.parametrize("n", [*range(1, 60), 101, 250, 499, 500])
def test_the_interval_of_a_share_lies_between_0_and_1_round_its_value(n):
    for k in range(n + 1):
        low, high = wilson(k / n, n)
        assert 0 <= low <= k / n <= high <= 1
        assert high - low > 0.5 / n


@pytest.mark.parametrize("n", [*range(1, 30), 101, 500])
def test_shares_at_the_ends_have_intervals_that_end_there(n):
    for share in (0.0, 1.0):
        estimate = clustered_share([share] * n, range(n))
        assert 0 <= estimate.interval[0] <= share <= estimate.interval[1] <= 1
        assert share in estimate.interval


@pytest.mark.parametrize("n", [1, 3, 9, 10, 40])
def test_wilson_is_scipys(n):
    scipy_stats = pytest.importorskip("scipy.stats")
    for k in range(n + 1):
        expected = scipy_stats.binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_significant_is_what_excludes_chance_on_enough_prompts():
    def doubt(wins, prompts):
        return clustered_share([1.0] * wins + [0.0] * (prompts - wins), range(prompts)).doubt(
            0.5, "50 %"
        )

    assert doubt(18, 20) == doubt(2, 20) == ""
    assert doubt(11, 20) == " (not significant: the interval holds 50 %)"
    nine = clustered_share([1.0] * 9, range(9))
    assert nine.interval[0] > 0.5
    assert nine.doubt(0.5, "50 %") == " (not significant: fewer than 10 prompts)"
    assert clustered_mean([0.1] * 9 + [0.2], range(10)).doubt(0, "0") == ""
    assert "holds 0" in clustered_mean([0.1], ["a"]).doubt(0, "0")


@pytest.mark.parametrize("count", [1, 2, 9, 10])
def test_an_estimate_is_the_same_after_json(count):
    for measure in (clustered_mean, clustered_share):
        estimate = measure(np.linspace(0.1, 0.8, 2 * count).tolist(), [*range(count)] * 2)
        again = json.loads(json.dumps(estimate.as_dict(), allow_nan=False))
        assert Estimate.from_dict(again | {"draws": 4}) == estimate
        assert bool(estimate.caution) is (count < 10)


def test_few_clusters_of_one_value_have_the_interval_of_student():
    scipy_stats = pytest.importorskip("scipy.stats")
    for count in range(2, 10):
        values = np.random.default_rng(count).normal(size=count)
        estimate = clustered_mean(values.tolist(), range(count))
        error = scipy_stats.sem(values)
        expected = scipy_stats.t.interval(0.95, count - 1, values.mean(), error)
        assert estimate.interval == pytest.approx(expected, abs=1e-4)
        assert estimate.method == "t"


def test_few_unequal_clusters_count_as_fewer():
    one, many = ["a"] * 96, ["b", "c", "d", "e"]
    wins = [1.0, 0.0] * 50
    low, high = clustered_share(wins, one + many).interval
    even = clustered_share([1.0, 0.0, 1.0, 0.0, 0.5], list("abcde")).interval
    assert low < even[0]
    assert high > even[1]


@pytest.mark.parametrize("count", [2, 3, 5, 9])
@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
def test_intervals_of_few_clusters_cover_the_truth(count, spread):
    """Logits of prompts vary by ``spread``: not at all, or so much that a prompt's pictures nearly
    agree. Four pictures of one prompt, up to seven of another."""
    random = np.random.default_rng(count)
    sizes = 4 + np.arange(count) % 4
    names = np.repeat(np.arange(count), sizes)
    truth = (1 / (1 + np.exp(-(0.8 + spread * random.normal(size=100_000))))).mean()
    covered = dict.fromkeys((clustered_mean, clustered_share), 0)
    rounds = 400
    for _ in range(rounds):
        chance = 1 / (1 + np.exp(-(0.8 + spread * random.normal(size=count))))
        wins = (random.random(len(names)) < chance[names]).astype(float).tolist()
        low, high = clustered_share(wins, names).interval
        covered[clustered_share] += low <= truth <= high
        scores = chance[names] + random.normal(size=len(names))
        low, high = clustered_mean(scores.tolist(), names).interval
        covered[clustered_mean] += low <= truth <= high
    assert min(covered.values()) >= 0.92 * rounds


@pytest.mark.parametrize("count", [4, 30])
def test_what_rounding_leaves_of_a_sum_is_no_bound(count):
    dust = 0.1 + 0.2 - 0.3
    assert dust != 0
    clusters = range(count + 1)
    for sign in (1, -1):
        estimate = clustered_mean([*[sign * dust] * count, 1.0], clusters)
        if count > 10:
            assert estimate.interval[0] == 0
            assert "holds 0" in estimate.doubt(0, "0")
        assert clustered_mean([*[sign * dust] * count, 1.0, -1.0], [*clusters, -1]).value == 0
    assert clustered_mean([dust] * count, range(count)).value == dust  # a small unit is a unit


def test_resampling_in_blocks_draws_the_same_numbers(monkeypatch):
    """The intervals of published results: one draw of all resamples at once."""
    random = np.random.default_rng(3)
    values, names = random.normal(size=150), np.arange(150) % 40 + 10
    total, count = np.bincount(names - 10, weights=values), np.bincount(names - 10)
    picks = generator(7, Purpose.BOOTSTRAP).integers(0, 40, size=(intervals.RESAMPLES, 40))
    means = total[picks].sum(axis=1) / count[picks].sum(axis=1)
    expected = tuple(np.quantile(means, [0.025, 0.975]))
    for at_once in (1, 999, 1 << 20):
        monkeypatch.setattr(intervals, "AT_ONCE", at_once)
        assert clustered_mean(values.tolist(), names, seed=7).interval == expected


def test_thousands_of_clusters_take_little_memory(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 1_000)
    tracemalloc.start()
    clustered_mean([0.0, 1.0] * 4_000, range(8_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("measure", [clustered_mean, clustered_share])
def test_a_value_that_is_not_finite_gives_no_figure(measure, value):
    with pytest.raises(UserError, match="1 of 20 values of a figure are not finite"):
        measure([0.5] * 19 + [value], range(20))


def test_no_values_is_an_error():
    with pytest.raises(ValueError, match="no values"):
        clustered_mean([], [])


def test_implicit_accuracy_overall_and_by_timestep():
    margin = torch.tensor([[3.0, -1.0], [-2.0, 1.0], [0.0, 0.0]])
    timestep = torch.tensor([[10, 900], [10, 900], [10, 900]])
    margins = Margins(margin, timestep, ["a", "b", "c"])
    assert overall(margins, 0).value == pytest.approx((1 + 0 + 0.5) / 3)
    rows = by_timestep(margins, 1000, 0)
    assert [row["timesteps"] for row in rows] == [[0, 200], [800, 1000]]
    assert [row["value"] for row in rows] == [0.5, 0.5]
