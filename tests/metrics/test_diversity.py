"""A policy that draws one picture for every seed is named; one that draws others is not."""

import numpy as np
import pytest

from diffdpo.metrics.diversity import between_seeds, diversity_change


def embeddings(prompts, spread, seed=0):
    """Two pictures of each prompt that lie ``spread`` apart."""
    random = np.random.default_rng(seed)
    centre, apart = random.normal(size=(2, prompts, 1, 16))
    return centre + spread * apart * np.array([-0.5, 0.5])[:, None]


def test_the_change_is_a_ratio_of_means_with_the_interval_of_one():
    before, after = embeddings(60, 1.0), embeddings(60, 0.6, seed=1)
    own_P, before_P = between_seeds(after), between_seeds(before)
    change = diversity_change(after, before, 0)
    assert (change.policy, change.reference) == pytest.approx((own_P.mean(), before_P.mean()))
    assert change.share == pytest.approx(own_P.mean() / before_P.mean() - 1)
    # The ratio itself, of resampled prompts.
    picks = np.random.default_rng(2).integers(0, 60, (4000, 60))
    ratios = own_P[picks].mean(axis=1) / before_P[picks].mean(axis=1) - 1
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert (change.low, change.high) == pytest.approx((low, high), abs=0.02)


def test_what_is_lost_of_all_prompts_alike_is_known_exactly():
    before_P = between_seeds(embeddings(8, 1.0))
    assert before_P.max() > 2 * before_P.min()
    one = np.repeat(embeddings(8, 1.0)[:, :1], 2, axis=1)
    change = diversity_change(one, embeddings(8, 1.0), 0)
    assert (change.share, change.low, change.high) == pytest.approx((-1, -1, -1))


@pytest.mark.parametrize(("spread", "collapsed"), [(1.0, False), (0.85, False), (0.2, True)])
def test_less_than_half_is_a_collapse(spread, collapsed):
    change = diversity_change(embeddings(8, spread), embeddings(8, 1.0), 0)
    assert change.collapsed == collapsed
    assert "the reference's by" in str(change)


def test_a_reference_against_other_seeds_of_its_own_is_no_collapse():
    found = [
        diversity_change(embeddings(8, 1.0, seed), embeddings(8, 1.0, seed + 100), 0)
        for seed in range(40)
    ]
    assert not any(change.collapsed for change in found)
    assert min(change.share for change in found) < -0.1


def test_one_prompt_has_no_interval_and_no_verdict():
    change = diversity_change(embeddings(1, 0.01), embeddings(1, 1.0), 0)
    assert change.share < -0.9
    assert not change.collapsed
    assert str(change).endswith("one prompt, no interval)")


def test_where_the_reference_has_no_diversity_nothing_is_lost():
    alike = np.ones((8, 2, 16))
    assert diversity_change(embeddings(8, 1.0), alike, 0).share == 0
