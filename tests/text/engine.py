"""The little of the engine that an objective asks for, for tests of one step."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from diffdpo.text.scorer import TokenScorer
from diffdpo.text.settings import TextSettings, make_objective
from diffdpo.text.task import TextTask


class OneStep:
    """A policy, a reference and a task, without loop, optimizer or processes."""

    def __init__(self, policy, reference, score_prompts=False):
        self.policy, self.reference = TokenScorer(policy), TokenScorer(reference)
        self.task = TextTask(torch.device("cpu"), nullcontext, score_prompts)

    def scores(self, draw):
        with torch.no_grad():
            reference_N = self.task.score(self.reference, draw)
        return self.task.score(self.policy, draw), reference_N

    def mean_reward(self, draws):
        with torch.no_grad():
            policy, reference = zip(*(self.scores(draw) for draw in draws), strict=True)
        return (torch.cat(policy) - torch.cat(reference)).mean()

    def total(self, value):
        return value

    def run(self, items, **settings):
        """Loss and metrics of one batch under the settings of the command line."""
        objective = make_objective(TextSettings(**settings))
        batch = self.task.collate(items)
        known = objective.prepare(self, [batch])
        draw = self.task.draw(batch)
        policy_N, reference_N = self.scores(draw)
        return objective.judge(
            policy_N, 0.0 if objective.reference_free else reference_N, draw, known
        )
