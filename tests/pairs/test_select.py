"""Which candidates become a pair, on which side they lie, what the label says."""

import itertools
import math

import numpy as np
import pytest

from diffdpo.pairs import select as selections
from diffdpo.pairs.select import SELECTIONS, SelectSettings, combined, select
from diffdpo.pairs.tables import FIRST_SEED, Layout, candidate_seed, prompt_key

KEYS = [prompt_key(f"prompt {number}") for number in range(400)]


def scores(*rows):
    """Scores ``(P, N, R)``: of one reward where the rows are flat."""
    array = np.array(rows, dtype=np.float64)
    return array[:, :, None] if array.ndim == 2 else array


def selected(score_PNR, **settings):
    return select(score_PNR, KEYS[: len(score_PNR)], SelectSettings(**settings))


def as_sets(chosen):
    return [{pair.chosen_first} for pair in chosen.pairs]


def test_best_and_worst_of_each_prompt_make_a_pair():
    chosen = selected(scores([3, 1, 2, 0], [0, 5, 5.5, 1]))
    assert [pair.chosen_first for pair in chosen.pairs] == [(0, 3), (2, 0)]
    assert chosen.gap_B.tolist() == [3, 5.5]
    for pair in chosen.pairs:
        assert pair.label == (1 if pair.sides == pair.chosen_first else 0)


def test_all_pairs_share_the_weight_of_their_prompt():
    chosen = selected(scores([3, 1, 2], [1, 1, 2]), select="all")
    assert len(chosen.pairs) == 6
    assert {pair.chosen_first for pair in chosen.pairs[:3]} == {(0, 1), (0, 2), (2, 1)}
    assert [pair.weight for pair in chosen.pairs] == [pytest.approx(1 / 3)] * 6
    assert chosen.ties == 1


def test_random_pairs_cover_all_pairs_evenly_and_depend_on_the_seed():
    same = scores(*[[4, 3, 2, 1]] * 400)
    chosen = selected(same, select="random")
    counts = dict.fromkeys(itertools.combinations(range(4), 2), 0)
    for pair in chosen.pairs:
        counts[pair.chosen_first] += 1
    assert min(counts.values()) > 400 / 6 - 4 * math.sqrt(400 / 6)
    assert chosen != selected(same, select="random", seed=1)
    assert chosen == selected(same, select="random")


def test_pareto_takes_two_of_which_one_is_better_by_every_reward():
    # By hand: nothing dominates 0 and 1, and 1 and 2 dominate nothing; of the two fronts only 0
    # and 2 are better and worse by both rewards. By the first reward alone it would be 1 and 2.
    rewards = [[[5, 5], [6, 1], [2, 2], [4, 3]]]
    chosen = selected(scores(*rewards), select="pareto")
    assert [pair.chosen_first for pair in chosen.pairs] == [(0, 2)]
    contradicting = [[[1, 3], [2, 2], [3, 1]]]
    chosen = selected(scores(*contradicting), select="pareto")
    assert (chosen.pairs, chosen.contradicted) == ([], 1)


def test_of_one_reward_the_fronts_are_the_best_and_the_worst():
    draws = np.random.default_rng(0).normal(size=(50, 5, 1))
    pareto, best = (selected(draws, select=name) for name in ("pareto", "best_worst"))
    assert as_sets(pareto) == as_sets(best)


@pytest.mark.parametrize("name", SELECTIONS)
def test_every_selection_gives_two_different_candidates_with_the_better_one_first(name):
    draws = np.random.default_rng(1).integers(0, 3, size=(60, 4, 2)).astype(float)
    chosen = selected(draws, select=name)
    assert chosen.pairs or name == "pareto"
    for pair in chosen.pairs:
        assert pair.sides[0] != pair.sides[1]
        better, worse = pair.chosen_first
        assert combined(draws)[pair.prompt, better] >= combined(draws)[pair.prompt, worse]


@pytest.mark.parametrize("name", ["best_worst", "all", "random"])
def test_equal_scores_are_ties_of_two_different_candidates_by_chance(name):
    chosen = selected(scores(*[[7, 7, 7, 7]] * 200), select=name)
    assert chosen.ties == len(chosen.pairs)
    assert {pair.label for pair in chosen.pairs} == {0.5}
    assert chosen.effective == 0
    firsts = [pair.sides[0] for pair in chosen.pairs]
    assert min(np.bincount(firsts, minlength=4)) > len(firsts) / 8  # not those sampled first


def test_equals_at_the_top_are_taken_by_chance():
    chosen = selected(scores(*[[9, 9, 9, 1]] * 300))
    counts = np.bincount([pair.chosen_first[0] for pair in chosen.pairs], minlength=4)
    assert counts[3] == 0
    assert counts[:3].min() > 70


def test_sides_are_balanced_and_those_of_a_pair_whatever_else_is_selected():
    draws = np.random.default_rng(2).normal(size=(400, 4, 1))
    best, every = (selected(draws, select=name) for name in ("best_worst", "all"))
    first = sum(pair.sides == pair.chosen_first for pair in best.pairs)
    assert abs(first - 200) < 4 * math.sqrt(100)
    among = {(pair.prompt, pair.sides) for pair in every.pairs}
    assert {(pair.prompt, pair.sides) for pair in best.pairs} <= among
    more = np.concatenate([draws, draws.min() - np.ones((400, 1, 1))], axis=1)
    among = {(pair.prompt, pair.sides) for pair in selected(more, select="all").pairs}
    assert {(pair.prompt, pair.sides) for pair in every.pairs} <= among


def test_soft_labels_are_the_logistic_function_of_the_gap():
    chosen = selected(scores([0, 3], [0, 0], [0, 4000]), soft_labels=1.5)
    likely = 1 / (1 + math.exp(-2))
    expected = [likely, 0.5, 1.0]
    for pair, p in zip(chosen.pairs, expected, strict=True):
        assert pair.label == pytest.approx(p if pair.gap >= 0 else 1 - p, abs=1e-15)
    assert chosen.effective == pytest.approx((2 * likely - 1) + 0 + 1)


def test_pairs_below_the_least_gap_are_left_out_and_counted():
    chosen = selected(scores([0, 1], [0, 2], [0, 3], [5, 5]), min_gap=2)
    assert [pair.prompt for pair in chosen.pairs] == [1, 2]
    assert chosen.close == 2


def test_several_rewards_count_in_units_of_their_own_deviation_within_a_prompt():
    first = np.array([[0.0, 2, 4], [1, 1, 1]])
    second = np.array([[100.0, 0, 0], [0, 300, 600]])
    score_PN = combined(np.stack([first, second], axis=2))
    deviations = [math.sqrt((8 / 3 + 0) / 2), math.sqrt((20000 / 9 + 60000) / 2)]
    by_hand = (first - first.mean(1, keepdims=True)) / deviations[0]
    by_hand = (by_hand + (second - second.mean(1, keepdims=True)) / deviations[1]) / 2
    np.testing.assert_allclose(score_PN, by_hand)
    # One scale for all prompts: a reward that hardly differs on a prompt is not blown up there.
    assert np.ptp(score_PN[1]) > 2 * np.ptp(second[0] / deviations[1]) / 2
    constant = np.stack([first, np.full_like(first, 3)], axis=2)
    np.testing.assert_allclose(combined(constant)[0], (first[0] - 2) / deviations[0] / 2)
    np.testing.assert_array_equal(combined(first[:, :, None]), first)


def test_seeds_are_a_function_of_seed_prompt_and_candidate_apart_from_those_of_evaluation():
    from diffdpo.image.sampling.sample import seeds_for

    cases = itertools.product((0, 1), ("a cat", "a dog"), range(50))
    seeds = [candidate_seed(*case) for case in cases]
    assert len(set(seeds)) == len(seeds) == 200
    assert min(seeds) >= FIRST_SEED
    assert max(seeds) < 2**32
    assert max(seeds_for(0, 1000)) < FIRST_SEED
    assert candidate_seed(1, "a dog", 3) == seeds[100 + 50 + 3]


@pytest.mark.parametrize("prompts", [1, 5, 300, 40_000])
def test_more_candidates_add_shards_and_change_none(prompts):
    few, many = Layout(prompts, 3), Layout(prompts, 5)
    assert many.ranges[: len(few.ranges)] == few.ranges
    rows = [row for span in many.ranges for row in (span.start, span.stop)]
    assert rows[0] == 0
    assert rows[-1] == many.rows
    assert rows[1:-1:2] == rows[2::2]
    assert max(map(len, many.ranges)) <= 64
    assert many.of(many.row(prompts - 1, 4)) == (prompts - 1, 4)


def test_the_mean_gap_is_that_of_all_two_candidates():
    from diffdpo.pairs.make import mean_gap

    score_PN = np.random.default_rng(3).normal(size=(6, 5))
    gaps = [
        abs(row[i] - row[j]) for row in score_PN for i, j in itertools.combinations(range(5), 2)
    ]
    assert mean_gap(score_PN) == pytest.approx(np.mean(gaps))


def test_the_table_is_what_the_flag_offers():
    from diffdpo.image.pair_settings import PairSettings

    field = PairSettings.__dataclass_fields__["select"]
    assert field.metadata["choices"] == list(selections.SELECTIONS)
