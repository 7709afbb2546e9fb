"""What of an implicit accuracy follows from which picture of a pair is easier to predict."""

import numpy as np
import pytest
import torch

from diffdpo.metrics.difficulty import by_difficulty
from diffdpo.metrics.implicit import Margins, overall


def margins_of(gap_P, margin_P):
    """Pairs at one draw whose reference prefers the chosen picture by a gap, and the policy's
    margin; the policy's own scores are not looked at."""
    gap, margin = (torch.tensor(x, dtype=torch.float32)[:, None] for x in (gap_P, margin_P))
    chosen, rejected = torch.stack([margin, gap], dim=2), torch.zeros(len(gap), 1, 2)
    names = [str(place) for place in range(len(gap))]
    return Margins(margin, torch.zeros_like(margin), names, chosen, None, rejected)


def permuted(gap_P, margin_P):
    """The accuracy if labels were permuted between pairs: over every two pairs, whether the policy
    on the one prefers the side, easier or harder, that was chosen in the other."""
    chosen, preferred = np.sign(gap_P), np.sign(gap_P) * np.sign(margin_P)
    return np.mean([a == b for a in chosen for b in preferred])


def test_the_control_is_the_mean_over_permuted_labels():
    random = np.random.default_rng(0)
    gap, margin = random.normal(0.5, 1, 40), random.normal(0.2, 1, 40)
    found = by_difficulty(margins_of(gap, margin), 0)
    assert found.accuracy == pytest.approx(permuted(gap, margin))
    assert found.easier_chosen == np.mean(gap > 0)
    assert found.easier_preferred == np.mean(np.sign(gap) == np.sign(margin))
    own = overall(margins_of(gap, margin), 0).value
    assert found.gain.value == pytest.approx(own - found.accuracy)


def test_a_policy_that_prefers_what_is_easier_gains_nothing():
    random = np.random.default_rng(1)
    gap = random.normal(0.7, 1, 400)
    found = by_difficulty(margins_of(gap, 0.1 * gap), 0)
    assert overall(margins_of(gap, gap), 0).value > 0.7
    assert found.easier_preferred == 1
    assert found.gain.value == pytest.approx(0, abs=1e-12)
    # Noise that has nothing to do with the labels adds nothing either.
    noisy = by_difficulty(margins_of(gap, gap + random.normal(0, 2, 400)), 0)
    assert noisy.accuracy > 0.55
    assert noisy.gain.interval[0] < 0 < noisy.gain.interval[1]


def test_a_policy_that_knows_the_chosen_picture_gains_where_harder_ones_are_chosen():
    gap = np.array([1.0] * 15 + [-1.0] * 5)
    found = by_difficulty(margins_of(gap, np.ones(20)), 0)
    assert found.accuracy == 0.75**2 + 0.25**2
    assert found.gain.value == 1 - found.accuracy
    assert found.gain.interval[0] > 0


def test_an_untrained_policy_and_pairs_alike_count_half():
    found = by_difficulty(margins_of(np.array([1.0, -1.0, 0.0]), np.zeros(3)), 0)
    assert (found.easier_chosen, found.easier_preferred, found.accuracy) == (0.5, 0.5, 0.5)
    assert found.gain.value == 0
