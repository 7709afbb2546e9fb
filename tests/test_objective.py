"""From scores to losses: units, weights, scale, soft labels."""

import math
from types import SimpleNamespace

import pytest
import torch

from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import UserError
from diffdpo.losses import LOSSES, as_loss, preference_loss
from diffdpo.objective.making import make_objective
from diffdpo.objective.scores import Scores, StepContext, StepPairs
from diffdpo.objective.terms import Objective, Term
from diffdpo.preference import implicit_reward

CONTEXT = StepContext(chosen_tokens=4.0, rejected_tokens=2.0, prompt_tokens=3.0)
CHOSEN, REJECTED, PROMPT = [-1.0, -2.0], [-3.0, -0.5], [-0.7, -0.9]
# Gaps are the whole label, and ranks have none of their own.
PAIRED = [n for n, row in LOSSES.items() if row.paired and not (row.reads_gap or row.of_step)]


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


def test_soft_labels_of_losses_that_read_a_likelihood_by_hand():
    """One token an item, log p −1 and −3: under P = ½ half of −log p is the rejected item's."""
    context, halves = StepContext(), torch.tensor([0.5])
    draw = SimpleNamespace(outcome_B=halves, desirable_N=None, size_N=1.0)
    score_N = torch.tensor([-1.0, -3.0])
    log_odds = [math.log(math.exp(x) / (1 - math.exp(x))) for x in (-1, -3)]
    ratio = log_odds[0] - log_odds[1]
    penalty = (math.log1p(math.exp(-ratio)) + math.log1p(math.exp(ratio))) / 2
    for name, expected in (("sft", 2.0), ("orpo", 2.0 + 0.3 * penalty)):
        found = Objective((Term(name, beta=0.3),)).loss(Scores(score_N), score_N, draw, context)
        assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.5, 0.9])
def test_smoothing_that_a_loss_does_not_take_is_refused_before_training(smoothing):
    settings = TrainSettings(label_smoothing=smoothing)
    with pytest.raises(UserError, match=r"--loss_type robust.*must lie in \[0, 0\.5\)"):
        make_objective(settings, ["robust"])


def test_a_loss_of_ones_own_gives_one_finite_number_a_pair(monkeypatch):
    own = {
        "mean": lambda c, r, *, beta: (c - r).mean(),
        "raises": lambda c, r, *, beta: c.no_such_method(),
        "nan": lambda c, r, *, beta: (c - r).log() * float("nan"),
        "good": lambda c, r, *, beta: (1 - beta * (c - r)).exp(),
    }
    for name, line in {
        "mean": r"--loss_type mean, beta 1: gives shape \(\) for 2 pairs",
        "raises": "--loss_type raises, beta 1: .*no_such_method",
        "nan": r"--loss_type nan, beta 1: is not finite: \[nan, nan\]",
    }.items():
        monkeypatch.setitem(LOSSES, name, as_loss(own[name]))
        with pytest.raises(UserError, match=line):
            make_objective(TrainSettings(), [name])
    monkeypatch.setitem(LOSSES, "good", as_loss(own["good"]))
    assert make_objective(TrainSettings(), ["good"]).terms[0].name == "good"


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_of_the_table_passes_the_trial(name):
    assert make_objective(TrainSettings(), [name], beta=0.1).terms[0].name == name


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


def test_a_tie_is_half_right_whichever_reward_is_larger():
    """Soft labels other than 1/2 have a side that is preferred."""
    reward_N = torch.tensor([4.0, 0.0, 3.0, 1.0])  # margins 1 and −1
    for outcome, expected in (
        (None, 0.5),
        ([0.5, 0.5], 0.5),
        ([0.5, 0.7], 0.25),
        ([0.7, 0.5], 0.75),
    ):
        draw = draw_of()
        draw.outcome_B = None if outcome is None else torch.tensor(outcome)
        metrics = Objective((Term("sigmoid"),)).metrics(reward_N, draw, StepContext())
        assert metrics["rewards/accuracies"].item() == expected


def test_units_of_the_shown_rewards():
    """Sums where there is a reference, means over tokens where there is none."""
    reward_N = torch.tensor([4.0, 6.0, 10.0, 12.0])
    for name, expected in (("sigmoid", (2.5, 5.5)), ("simpo", (1.0, 1.25))):
        metrics = Objective((Term(name, beta=0.5),)).metrics(reward_N, draw_of(), StepContext())
        shown = metrics["rewards/chosen"], metrics["rewards/rejected"]
        assert [value.item() for value in shown] == pytest.approx(expected)


def test_a_gap_is_the_target_of_the_scaled_margin_and_the_whole_label():
    score_N, draw = torch.tensor([1.0, 2.0, 0.5, 4.0]), draw_of(outcome=0.5)
    draw.gap_B = torch.tensor([2.0, -3.0])
    loss_B = Objective((Term("capo", scale=3.0),)).loss(Scores(score_N), score_N, draw, CONTEXT)
    assert loss_B.tolist() == [(3 * 0.5 - 2) ** 2, (3 * -2 + 3) ** 2]


def test_a_sum_scales_the_losses_that_have_a_reference_alone():
    objective = make_objective(TrainSettings(), ["sft", "sigmoid"], [2.0, 1.0], scale=5000.0)
    assert [term.scale for term in objective.terms] == [1.0, 5000.0]
    assert objective.reward_scale == 5000.0


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_a_loss_of_the_step_is_the_same_however_the_step_is_cut(name):
    """Values and gradients of three micro-batches of 2 pairs against one of 6."""
    torch.manual_seed(0)
    score_2P, frozen_2P = 3 * torch.randn(2, 6), 3 * torch.randn(2, 6)
    objective = Objective((Term(name, beta=0.3),))

    def run(part, context):
        score_N = score_2P[:, part].reshape(-1).requires_grad_()
        reward_N = score_N - frozen_2P[:, part].reshape(-1)
        loss = objective.loss(Scores(score_N), reward_N, draw_of(), context).mean()
        return loss, torch.autograd.grad(loss, score_N)[0].view(2, -1)

    whole, grad = run(slice(0, 6), StepContext())
    pairs = StepPairs(score_2P, score_2P - frozen_2P, (0, 2, 4))
    context = StepContext(share=1 / 3, pairs=pairs)
    for index in range(3):
        part = slice(2 * index, 2 * index + 2)
        loss, own = run(part, context.at(index))
        torch.testing.assert_close(loss, whole)
        torch.testing.assert_close(own / 3, grad[:, part])


def test_soft_labels_of_sorted_pairs_are_refused():
    objective = Objective((Term("aot"),))
    with pytest.raises(UserError, match="--loss_type aot sorts pairs, and takes no soft labels"):
        loss_of(objective, outcome=0.7)
