"""From scores to losses: units, weights, scale, soft labels."""

from types import SimpleNamespace

import pytest
import torch

from diffdpo.losses import LOSSES, preference_loss
from diffdpo.objective import Objective, Scores, StepContext, Term
from diffdpo.preference import implicit_reward

CONTEXT = StepContext(chosen_tokens=4.0, rejected_tokens=2.0, prompt_tokens=3.0)
CHOSEN, REJECTED, PROMPT = [-1.0, -2.0], [-3.0, -0.5], [-0.7, -0.9]
PAIRED = [name for name, row in LOSSES.items() if row.paired]


def draw_of(outcome=None, sizes=(2.0, 3.0, 5.0, 4.0)):
    outcome_B = None if outcome is None else torch.full((2,), outcome)
    return SimpleNamespace(outcome_B=outcome_B, desirable_N=None, size_N=torch.tensor(sizes))


def loss_of(objective, chosen=CHOSEN, rejected=REJECTED, context=CONTEXT, **draw):
    policy = Scores(torch.tensor([*chosen, *rejected]), torch.tensor(PROMPT))
    reward_N = implicit_reward(policy.score_N, torch.tensor([-2.0, -1.0, -1.0, -2.0]))
    return objective.loss(policy, reward_N, draw_of(**draw), context)


@pytest.mark.parametrize("name", PAIRED)
def test_a_soft_label_is_the_expectation_over_the_label(name):
    """Swapping a pair swaps scores, reference, token counts and likelihoods alike."""
    objective = Objective((Term(name, beta=0.3),))
    kept = loss_of(objective)
    policy = Scores(torch.tensor([*REJECTED, *CHOSEN]), torch.tensor(PROMPT))
    reward_N = implicit_reward(policy.score_N, torch.tensor([-1.0, -2.0, -2.0, -1.0]))
    swapped_context = StepContext(chosen_tokens=2.0, rejected_tokens=4.0, prompt_tokens=3.0)
    swapped_draw = draw_of(sizes=(5.0, 4.0, 2.0, 3.0))
    swapped = objective.loss(policy, reward_N, swapped_draw, swapped_context)
    for outcome in (0.5, 0.7, 1.0):
        soft = loss_of(objective, outcome=outcome)
        torch.testing.assert_close(soft, outcome * kept + (1 - outcome) * swapped)


def test_weights_multiply_and_terms_add_up():
    single = [loss_of(Objective((Term(name, beta=0.3),))) for name in ("sigmoid", "sft")]
    terms = Term("sigmoid", 2.0, beta=0.3), Term("sft", 0.5, beta=0.3)
    torch.testing.assert_close(loss_of(Objective(terms)), 2 * single[0] + 0.5 * single[1])


def test_scale_multiplies_rewards_and_kto_reads_z_in_the_same_scale():
    rewards = torch.tensor([1.0, -1.0]), torch.tensor([-2.0, 1.5])
    for name, z in (("sigmoid", 0.0), ("kto", 0.4)):
        context = StepContext(reference_point=z)
        loss_B = loss_of(Objective((Term(name, scale=7.0),)), context=context)
        expected = preference_loss(name, 7 * rewards[0], 7 * rewards[1], beta=1.0, kl=7 * z)
        torch.testing.assert_close(loss_B, expected)


def test_units_of_the_shown_rewards():
    """Sums where there is a reference, means over tokens where there is none."""
    reward_N = torch.tensor([4.0, 6.0, 10.0, 12.0])
    for name, expected in (("sigmoid", (2.5, 5.5)), ("simpo", (1.0, 1.25))):
        metrics = Objective((Term(name, beta=0.5),)).metrics(reward_N, draw_of(), StepContext())
        shown = metrics["rewards/chosen"], metrics["rewards/rejected"]
        assert [value.item() for value in shown] == pytest.approx(expected)
