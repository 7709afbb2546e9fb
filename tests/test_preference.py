"""The Bradley–Terry core against closed forms."""

import math

import pytest
import torch

from diffdpo.preference import (
    accuracy,
    at_least_float32,
    implicit_reward,
    preference_log_likelihood,
    preference_probability,
    summary,
)


def test_probability_is_the_worth_form():
    worth_i, worth_j = torch.tensor([2.0, 5.0]), torch.tensor([3.0, 0.5])
    expected = worth_i / (worth_i + worth_j)
    assert torch.allclose(preference_probability(worth_i.log(), worth_j.log()), expected)


def test_probabilities_of_both_orders_add_up_to_one_and_broadcast():
    i, j = torch.randn(4, 1, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    assert torch.allclose(
        preference_probability(i, j) + preference_probability(j, i).expand(4, 3),
        torch.ones(4, 3).double(),
    )


def test_plain_numbers_are_accepted():
    assert preference_probability(0.0, 0.0).item() == 0.5
    assert preference_probability(math.log(3), 0).item() == pytest.approx(0.75)


@pytest.mark.parametrize("margin", [-17_000.0, -50.0, 0.0, 50.0, 17_000.0])
def test_log_likelihood_is_finite_and_matches_the_stable_form(margin):
    found = preference_log_likelihood(margin).item()
    assert found == pytest.approx(
        -(math.log1p(math.exp(-margin)) if margin > -700 else -margin), abs=1e-6
    )
    assert math.isfinite(found)


def test_a_tie_is_half_a_win_and_half_a_loss():
    margin = torch.tensor([0.3, -2.0])
    halves = (preference_log_likelihood(margin) + preference_log_likelihood(-margin)) / 2
    assert torch.allclose(preference_log_likelihood(margin, 0.5), halves)


def test_gradient_of_the_log_likelihood_is_outcome_minus_probability():
    margin = torch.randn(9, dtype=torch.float64, requires_grad=True)
    preference_log_likelihood(margin, 0.7).sum().backward()
    assert torch.allclose(margin.grad, 0.7 - torch.sigmoid(margin.detach()))


def test_half_precision_is_widened_and_double_kept():
    assert at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    assert implicit_reward(torch.tensor([0.5], dtype=torch.bfloat16), 0.25).dtype == torch.float32


def test_accuracy_counts_ties_as_half():
    assert accuracy(torch.tensor([1e-30, 0.0, -1e-30])).tolist() == [1.0, 0.5, 0.0]


def test_summary_names_and_values():
    found = summary(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]))
    assert {k: v.item() for k, v in found.items()} == {
        "rewards/chosen": 0.5,
        "rewards/rejected": 0.0,
        "rewards/accuracies": 0.75,
        "rewards/margins": 0.5,
    }
