"""The inverse on strengths that sum to zero, by both solvers."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from diffdpo.ranking.elimination import Singular
from diffdpo.ranking.newton import inverse

RNG = np.random.default_rng(0)
DESIGN = np.zeros((40, 7))  # five strengths and two parameters beside them
for row in DESIGN:
    winner, loser = RNG.choice(5, 2, replace=False)
    row[winner], row[loser], row[5:] = 1, -1, RNG.normal(size=2)
MATRIX = DESIGN.T @ DESIGN


@pytest.mark.parametrize("kind", [np.asarray, csr_matrix])
def test_without_a_prior_it_is_the_pseudo_inverse(kind):
    solve = inverse(kind(MATRIX), 5)
    np.testing.assert_allclose(solve(np.eye(7)), np.linalg.pinv(MATRIX), atol=1e-10)
    np.testing.assert_allclose(
        solve(np.arange(7.0)), np.linalg.pinv(MATRIX) @ np.arange(7.0), atol=1e-10
    )


@pytest.mark.parametrize("kind", [np.asarray, csr_matrix])
def test_with_a_prior_it_is_the_covariance_of_centred_strengths(kind):
    matrix = MATRIX + np.diag([0.25] * 5 + [0, 0])
    centre = np.eye(7)
    centre[:5, :5] -= 1 / 5
    expected = centre @ np.linalg.inv(matrix) @ centre
    np.testing.assert_allclose(inverse(kind(matrix), 5)(np.eye(7)), expected, atol=1e-10)


def test_parameters_that_cannot_be_told_apart_are_noticed():
    design = DESIGN.copy()
    design[:, 6] = design[:, 0] - design[:, 1]
    with pytest.raises(Singular):
        inverse(design.T @ design, 5)
