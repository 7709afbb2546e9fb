"""The winner's safeguard: first-order condition, values, gradients, and its way through a loss."""

from types import SimpleNamespace

import pytest
import torch

from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import UserError
from diffdpo.losses import LOSSES
from diffdpo.losses.safeguard import Residuals, loser_scale, with_loser_scaled
from diffdpo.objective.scores import Scores, StepContext
from diffdpo.objective.terms import Objective, Term


def products(winner, loser):
    return Residuals((winner * winner).sum(1), (winner * loser).sum(1))


@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0])
def test_the_winners_error_falls_by_its_share_to_first_order(mu):
    """One step of gradient descent on the predictions themselves, by finite differences."""
    torch.manual_seed(0)
    winner, loser = torch.randn(200, 6).double(), torch.randn(200, 6).double()
    loser[:50] = 3 * winner[:50] + 0.1 * loser[:50]  # these would carry the winner along
    scale = loser_scale(products(winner, loser), mu)
    assert 0 <= scale.min() < 1
    assert scale.max() == 1
    step = 1e-7
    moved = winner - step * (2 * winner - scale[:, None] * 2 * loser)
    fall = (winner.square().sum(1) - moved.square().sum(1)) / step
    alone = 4 * winner.square().sum(1)  # what it would fall without the loser
    assert bool((fall >= mu * alone - 1e-4).all())
    tight = (scale > 0) & (scale < 1)
    assert torch.allclose(fall[tight], mu * alone[tight], atol=1e-4)


def test_a_loser_that_cannot_harm_keeps_its_gradient():
    winner = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    loser = torch.tensor([[-5.0, 1.0], [0.0, 9.0], [0.25, 1.0], [7.0, 1.0]])
    assert loser_scale(products(winner, loser), 0.5).tolist() == [1.0, 1.0, 1.0, 1.0]
    assert loser_scale(products(winner[:1], 2 * winner[:1]), 0.5).tolist() == [0.25]
    assert loser_scale(products(winner[:1], winner[:1]), 1.0).tolist() == [0.0]


def test_values_stay_to_the_last_bit_and_the_losers_gradient_is_scaled():
    torch.manual_seed(0)
    value = torch.randn(8, requires_grad=True)
    held = with_loser_scaled(value, torch.tensor([0.0, 0.1, 0.7, 1.0]))
    assert torch.equal(held, value)
    held.sum().backward()
    assert value.grad.tolist() == pytest.approx([1, 1, 1, 1, 0.0, 0.1, 0.7, 1.0])


# ORPO's likelihood term reads the scores besides, and ranks have no pair of their own.
PULLING = [n for n, r in LOSSES.items() if r.paired and n != "orpo" and not r.of_step]


@pytest.mark.parametrize("name", PULLING)
def test_every_pair_loss_keeps_its_value_and_scales_the_losers_pull(name):
    residuals = Residuals(torch.tensor([1.0, 4.0]), torch.tensor([4.0, -1.0]))  # λ ½·¼ and 1
    draw = SimpleNamespace(outcome_B=None, desirable_N=None, size_N=1.0, gap_B=torch.ones(2))
    found = []
    for mu in (None, 0.5):
        score_N = torch.tensor([-1.0, -2.0, -3.0, -0.5], requires_grad=True)
        objective = Objective((Term(name, beta=0.3),), mu)
        policy = Scores(score_N, residuals=residuals)
        loss_B = objective.loss(policy, score_N + 0.25, draw, StepContext())
        loss_B.sum().backward()
        found.append((loss_B.detach(), score_N.grad))
    assert torch.equal(found[0][0], found[1][0])
    expected = found[0][1] * torch.tensor([1.0, 1.0, 0.125, 1.0])
    torch.testing.assert_close(found[1][1], expected)
    assert objective.guard_metrics(policy)["safeguard/loser_scale"].item() == 0.5625


def test_scores_without_residuals_are_refused():
    draw = SimpleNamespace(outcome_B=None, desirable_N=None, size_N=1.0)
    score_N = torch.zeros(2)
    with pytest.raises(UserError, match=r"--winner_safeguard: .* no residuals"):
        Objective((Term("sigmoid"),), 0.5).loss(Scores(score_N), score_N, draw, StepContext())
    assert not hasattr(TrainSettings(), "winner_safeguard")  # texts have no such flag
