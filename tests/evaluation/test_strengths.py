"""Strengths of policies with intervals over prompts, against closed forms."""

import numpy as np
import pytest

from diffdpo.evaluation.strengths import all_duels, strengths


def test_two_policies_have_the_log_odds_of_their_win_rate():
    share = np.array([1.0] * 30 + [0.0] * 10)
    found = strengths(["a", "b"], {("a", "b"): share}, range(40))
    first, second = found["items"]
    assert first["item"] == "a"
    assert first["strength"] == pytest.approx(np.log(3) / 2)
    # The delta method for a log-odds of independent games, halved: half of it is one strength.
    error = np.sqrt(1 / (40 * 0.75 * 0.25)) / 2 * np.sqrt(40 / 39)
    assert first["interval"][1] - first["strength"] == pytest.approx(1.959964 * error)
    assert second["strength"] == -first["strength"]
    assert found["prior_std"] is None


def test_games_of_one_prompt_count_as_one():
    share = np.repeat([1.0, 1.0, 1.0, 0.0] * 10, 4)
    wide = strengths(["a", "b"], {("a", "b"): share}, np.repeat(range(40), 4))["items"][0]
    narrow = strengths(["a", "b"], {("a", "b"): share}, range(160))["items"][0]

    def width(row):
        return row["interval"][1] - row["strength"]

    assert width(wide) / width(narrow) == pytest.approx(2 * np.sqrt(40 / 39 * 159 / 160))


def test_three_policies_agree_with_resampled_prompts():
    random = np.random.default_rng(0)
    quality = {"reference": 0.0, "a": 0.7, "b": 1.2}
    luck = {name: random.gumbel(size=(200, 2)) + value for name, value in quality.items()}

    def wins(one, other, prompts=slice(None)):
        return (luck[one] > luck[other])[prompts].astype(float).ravel()

    names = list(quality)
    found = strengths(names, all_duels(names, wins), np.repeat(range(200), 2))
    samples = []
    for _ in range(60):
        picks = random.integers(0, 200, 200)
        duels = all_duels(names, lambda one, other, picks=picks: wins(one, other, picks))
        rows = strengths(names, duels, np.repeat(range(200), 2))["items"]
        samples.append({row["item"]: row["strength"] for row in rows})
    for row in found["items"]:
        spread = np.std([sample[row["item"]] for sample in samples])
        error = (row["interval"][1] - row["strength"]) / 1.959964
        assert error == pytest.approx(spread, rel=0.35)


def test_one_that_always_wins_gets_a_prior_and_a_word_on_it():
    found = strengths(["a", "b"], {("a", "b"): np.ones(20)}, range(20))
    assert found["prior_std"] == 2.0
    assert np.isfinite(found["items"][0]["strength"])
