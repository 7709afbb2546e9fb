"""Shares of votes that share their prompts and their people."""

import math

import numpy as np
import pytest

from diffdpo.metrics.intervals import clustered_share, crossed_share


def crossed_votes(prompts, people, prompt_spread, person_spread, seed):
    """Votes of every person on every prompt, whose chances differ by prompt and by person."""
    random = np.random.default_rng(seed)
    p = 0.5 + prompt_spread * random.choice([-1, 1], (prompts, 1))
    p = p + person_spread * random.choice([-1, 1], (1, people))
    values = random.random((prompts, people)) < p
    row, column = np.indices(values.shape)
    return values.ravel().astype(float).tolist(), row.ravel().tolist(), column.ravel().tolist()


def test_a_crossed_interval_knows_of_prompts_and_of_people():
    values, prompts, people = crossed_votes(60, 12, 0.2, 0.2, 0)
    crossed = crossed_share(values, prompts, people)
    widths = {
        "crossed": np.diff(crossed.interval)[0],
        "prompts": np.diff(clustered_share(values, prompts).interval)[0],
        "people": np.diff(clustered_share(values, people).interval)[0],
    }
    assert crossed.value == pytest.approx(np.mean(values))
    assert (crossed.n, crossed.clusters, crossed.method) == (720, 60, "bootstrap")
    assert widths["crossed"] > 1.05 * max(widths["prompts"], widths["people"])
    # Owen 2007: the variance is about the sum of both, and of that of the votes alone.
    both = math.hypot(widths["prompts"], widths["people"])
    assert both * 0.9 < widths["crossed"] < both * 1.25


def test_a_crossed_share_of_one_person_is_that_of_prompts():
    values, prompts, _ = crossed_votes(40, 1, 0.2, 0, 1)
    assert crossed_share(values, prompts, ["ann"] * 40) == clustered_share(values, prompts)
    assert crossed_share([1.0] * 40, range(40), [0, 1] * 20).method == "wilson"


def test_a_crossed_share_does_not_depend_on_the_order():
    values, prompts, people = crossed_votes(15, 3, 0.1, 0.1, 2)
    one = crossed_share(values, prompts, people)
    order = np.random.default_rng(0).permutation(len(values))
    moved = [[column[i] for i in order] for column in (values, prompts, people)]
    assert crossed_share(*moved) == one


def test_people_who_share_no_prompt_leave_no_empty_resample_behind():
    found = crossed_share([0.0, 1.0] * 6, range(12), [0, 1] * 6)
    assert 0 <= found.interval[0] < found.interval[1] <= 1
