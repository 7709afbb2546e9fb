"""One step of text training without loop, optimizer or processes, for tests."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from diffdpo.engine.step_context import Scorers, step_context
from diffdpo.losses import preference_loss
from diffdpo.preference import implicit_reward
from diffdpo.reference import OtherModel, Zero
from diffdpo.text.flags.loss_settings import text_objective
from diffdpo.text.scoring.scorer import TokenScorer
from diffdpo.text.settings import TextSettings
from diffdpo.text.task import TextTask


class OneStep:
    """A policy and a reference that score one batch and give its loss, as the trainer does."""

    def __init__(self, policy, reference, score_prompts=False):
        self.policy, self.reference = TokenScorer(policy), TokenScorer(reference)
        self.task = TextTask(torch.device("cpu"), nullcontext, score_prompts)

    def scores(self, draw):
        """The scores of policy and reference."""
        with torch.no_grad():
            frozen = self.task.score(self.reference, draw)
        return self.task.score(self.policy, draw).score_N, frozen.score_N

    def run(self, items, **settings):
        """Loss and metrics of one batch under the settings of the command line."""
        settings = TextSettings(**settings)
        objective = text_objective(settings)
        self.task.ld_alpha, self.task.weighs = settings.ld_alpha, settings.use_weighting
        self.task.mean_logps = objective.shows_means
        reference = Zero() if objective.reference_free else OtherModel(self.reference, "other")
        batch = self.task.collate(items)
        scorers = Scorers(self.task, self.policy, reference, total=lambda value: value)
        context = step_context(objective, scorers, [batch])
        draw = self.task.draw(batch)
        frozen_N = reference.score(self.task.score, self.policy, draw)
        policy = self.task.score(self.policy, draw)
        reward_N = implicit_reward(policy.score_N, frozen_N)
        context = objective.settled(reward_N, context)
        loss = objective.loss(policy, reward_N, draw, context).mean()
        metrics = objective.metrics(reward_N, draw, context)
        return loss, {**metrics, **self.task.metrics(policy, frozen_N, draw, context)}


def step(scorer, reference, draw, dtype=None, rate=0.01):
    """The rewards, losses and reference scores of a step, which is taken: every trained weight
    moves by ``rate``."""
    task, drawn = draw
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        frozen_N = reference.score(task.score, scorer, drawn)
        reward_N = task.score(scorer, drawn).score_N - frozen_N
    loss_B = preference_loss("sigmoid", *reward_N.chunk(2), beta=0.1)
    loss_B.mean().backward()
    trained = [weight for weight in scorer.parameters() if weight.grad is not None]
    assert any(bool(weight.grad.any()) for weight in trained)
    with torch.no_grad():
        for weight in trained:
            weight -= rate * weight.grad.sign()
            weight.grad = None
    return reward_N.detach(), loss_B.detach(), frozen_N
