"""Rewards of f-divergences: their definition, their limits, and their way through a loss."""

import math
from types import SimpleNamespace

import pytest
import torch

from diffdpo.losses import LOSSES, preference_loss
from diffdpo.losses.transforms import DIVERGENCES, power_reward
from diffdpo.objective.making import make_objective
from diffdpo.objective.scores import Scores, StepContext
from diffdpo.text.flags import loss_settings
from diffdpo.text.settings import TextSettings

# f(t) with f(1) = 0, of D_f(policy ‖ reference) = E_reference f(policy / reference).
F = {
    "reverse_kl": lambda t: t * t.log(),
    "forward_kl": lambda t: -t.log() + t - 1,
    "js_divergence": lambda t: t * t.log() - (t + 1) * ((t + 1) / 2).log(),
    "alpha_divergence": lambda t: (t**0.3 - 0.3 * t - 0.7) / (0.3 * (0.3 - 1)),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_margins_are_those_of_the_derivative_of_f(name):
    """Up to a constant, which cancels in a margin."""
    t = torch.tensor([0.2, 0.7, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(F[name](t).sum(), t)
    found = DIVERGENCES[name](t.detach().log(), 0.3)
    torch.testing.assert_close(found.diff(), slope.diff())


def test_the_settings_name_the_divergences_of_the_table():
    assert list(DIVERGENCES) == loss_settings.DIVERGENCES


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("ratio", [-1e5, -100.0, 0.0, 100.0, 1e5])
def test_rewards_and_gradients_stay_finite(name, ratio):
    value = torch.tensor([ratio], requires_grad=True)
    found = DIVERGENCES[name](value, 0.5)
    found.sum().backward()
    assert found.isfinite().all()
    assert value.grad.isfinite().all()


def test_a_power_of_zero_is_the_value_itself():
    value = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    assert torch.equal(power_reward(value, 0.0), value)
    torch.testing.assert_close(power_reward(value, 1e-5), value, rtol=1e-4, atol=0)


def test_a_divergence_is_applied_to_sums_and_a_likelihood_beside_it_stays_plain():
    settings = TextSettings(f_divergence_type="forward_kl")
    objective = make_objective(settings, ["ipo", "sft"], [1.0, 2.0], beta=0.5)
    score_N, reward_N = torch.tensor([-4.0, -6.0]), torch.tensor([1.0, -0.5])
    draw = SimpleNamespace(outcome_B=None, desirable_N=None, size_N=torch.tensor([2.0, 3.0]))
    context = StepContext(chosen_tokens=2.0, rejected_tokens=3.0)
    found = objective.loss(Scores(score_N), reward_N, draw, context)
    x, y = (1 - math.exp(-1)) / 2, (1 - math.exp(0.5)) / 3
    expected = preference_loss("ipo", torch.tensor([x]), torch.tensor([y]), beta=0.5) + 2 * 4 / 2
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", [n for n, row in LOSSES.items() if row.only != "images"])
def test_only_losses_of_the_margin_take_another_divergence(name):
    settings = TextSettings(loss_type=[name], f_divergence_type="js_divergence")
    refused = [line for line in settings.problems() if "--f_divergence_type" in line]
    assert bool(refused) != (LOSSES[name].of_margin or name == "sft")
