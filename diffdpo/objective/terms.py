"""From the scores of a batch to its losses: the terms, their weights, scales and units.

Shapes: ``B`` pairs, ``N`` items: ``2B``, chosen first, or single items with their labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.losses import LOSSES, Loss, preference_loss
from diffdpo.losses.means import Metrics, by_label
from diffdpo.losses.running import RunningMean
from diffdpo.losses.safeguard import loser_scale, with_loser_scaled
from diffdpo.objective.scores import Draw, Scores, StepContext
from diffdpo.preference import summary


@dataclass(frozen=True)
class Term:
    """One loss of the sum: ``weight · L(scale · rewards; beta)``.

    Text sets ``beta`` and leaves ``scale`` at 1, so that every value is the published one. Images
    put their beta into ``scale``: the losses that depend on beta · reward alone come out the same,
    and the squared ones (IPO, SPPO) are β² times the published value with the same minimum. At
    beta 5000 the published IPO is 1e-8 with a gradient below Adam's epsilon; this one trains.
    """

    name: str
    weight: float = 1.0
    beta: float = 1.0
    scale: float = 1.0
    options: dict[str, float] = field(default_factory=dict)
    divergence: Callable[[Tensor], Tensor] | None = None  # of a log-ratio; None: the reverse KL

    @property
    def row(self) -> Loss:
        """The loss in the table."""
        return LOSSES[self.name]

    def loss(self, policy: Scores, reward_N: Tensor, draw: Draw, context: StepContext) -> Tensor:
        """Losses ``(B,)`` of pairs or ``(N,)`` of labelled items, with gradient."""
        if self.row.of_step:
            return self.of_step(policy, reward_N, draw, context)
        value_N = self.scale * self.in_unit(policy, reward_N, draw, context)
        z = self.scale * context.reference_point
        if draw.desirable_N is not None:
            return self.row.fn(value_N, draw.desirable_N, z, beta=self.beta, **self.options)
        chosen_B, rejected_B = value_N.chunk(2)
        nll_B, swapped_nll_B = self.nll(policy, context)
        gap_B = draw.gap_B if self.row.reads_gap else None
        loss_B = self.of_pairs(chosen_B, rejected_B, z, nll_B=nll_B, gap_B=gap_B)
        if draw.outcome_B is None or gap_B is not None:  # a gap is the whole label
            return loss_B
        # The expectation over the label; for the sigmoid this is cDPO with ε = 1 − outcome.
        swapped_B = self.of_pairs(rejected_B, chosen_B, z, nll_B=swapped_nll_B)
        return draw.outcome_B * loss_B + (1 - draw.outcome_B) * swapped_B

    def of_step(self, policy: Scores, reward_N: Tensor, draw: Draw, context: StepContext) -> Tensor:
        """The mean loss of all pairs of the step, for every pair of the micro-batch: ``(B,)``.

        Its value is that of the whole step, and its gradient that by the rewards of this
        micro-batch, times the number of micro-batches: their mean is then the step's.
        """
        if draw.outcome_B is not None:
            raise UserError(f"--loss_type {self.name} sorts pairs, and takes no soft labels")
        reward_2B = self.scale * reward_N.view(2, -1)
        score_2P, reward_2P = policy.score_N.detach().view(2, -1), reward_2B
        pairs = context.pairs
        if pairs is not None:
            score_2P, start = pairs.score_2P, pairs.starts[context.index]
            others = pairs.reward_2P * self.scale
            end = start + reward_2B.shape[1]
            reward_2P = torch.cat([others[:, :start], reward_2B, others[:, end:]], dim=1)
        reference_2P = self.scale * score_2P - reward_2P.detach()
        loss = self.of_pairs(
            reward_2P[0], reward_2P[1], reference_margin_B=reference_2P[0] - reference_2P[1]
        ).mean()
        if pairs is not None:
            loss = loss.detach() + (loss - loss.detach()) / context.share
        return loss.expand(reward_2B.shape[1])

    def of_pairs(
        self, chosen_B: Tensor, rejected_B: Tensor, z: Tensor | float = 0.0, **data: Any
    ) -> Tensor:
        """Losses ``(B,)`` of scaled rewards; ``data`` come with the pairs, by the loss's names."""
        named: dict[str, Any] = {"beta": self.beta, "kl": z, **data, **self.options}
        return preference_loss(self.name, chosen_B, rejected_B, **named)

    def in_unit(self, policy: Scores, reward_N: Tensor, draw: Draw, context: StepContext) -> Tensor:
        """What the loss reads: rewards, or scores if it has no reference; as sums or as means."""
        value_N = policy.score_N if self.row.reference_free else reward_N
        if self.row.mean_of_batch and policy.likelihood_N is not None:
            value_N = policy.likelihood_N
        if self.divergence and not self.row.reference_free:
            value_N = self.divergence(value_N)
        if self.row.mean_of_batch:
            # Over the step's mean length, not each item's own: a token of a short completion weighs
            # as much as one of a long completion.
            chosen_B, rejected_B = value_N.chunk(2)
            sides = chosen_B / context.chosen_tokens, rejected_B / context.rejected_tokens
            return torch.cat(sides)
        return value_N / draw.size_N if self.row.mean_tokens else value_N

    def nll(self, policy: Scores, context: StepContext) -> tuple[Tensor | None, Tensor | None]:
        """−log p of the chosen and of the rejected items, ``(B,)`` each, per token of the step.
        Prompts count where they are scored. The mean over the step is then a language model's
        loss, as in TRL's ORPO. None where the loss reads no likelihood.
        """
        if not self.row.reads_nll:
            return None, None
        prompt_B = 0.0 if policy.prompt_B is None else policy.prompt_B
        chosen_B, rejected_B = policy.score_N.chunk(2)
        return (
            -(chosen_B + prompt_B) / (context.chosen_tokens + context.prompt_tokens),
            -(rejected_B + prompt_B) / (context.rejected_tokens + context.prompt_tokens),
        )


@dataclass(frozen=True)
class Objective:
    """Σ weight · loss. Either all terms judge pairs, or the only term judges single items.

    ``safeguard`` is the μ of ``diffdpo.losses.safeguard``; None leaves the loser's gradient as it
    is. ``weighted``: every pair counts by WPO's weight, the product of those of its items.
    """

    terms: tuple[Term, ...]
    safeguard: float | None = None
    weighted: bool = False
    running: RunningMean | None = None  # of the rewards of the run, where a loss reads it

    @property
    def paired(self) -> bool:
        """Whether pairs are judged, not single items."""
        return self.terms[0].row.paired

    @property
    def reference_free(self) -> bool:
        """Whether no term needs a reference."""
        return all(term.row.reference_free for term in self.terms)

    @property
    def needs_kl(self) -> bool:
        """Whether a term reads KTO's reference point."""
        return any(term.row.needs_kl for term in self.terms)

    @property
    def of_step(self) -> bool:
        """Whether a term compares the pairs of a step with each other."""
        return any(term.row.of_step for term in self.terms)

    @property
    def reads_gap(self) -> bool:
        """Whether a term reads the gap of every pair."""
        return any(term.row.reads_gap for term in self.terms)

    @property
    def reads_nll(self) -> bool:
        """Whether a term also reads the likelihood of the items themselves."""
        return any(term.row.reads_nll for term in self.terms)

    @property
    def reads_token_counts(self) -> bool:
        """Whether a term divides by the tokens of the whole effective batch."""
        return self.reads_nll or any(term.row.mean_of_batch for term in self.terms)

    @property
    def shows_means(self) -> bool:
        """Whether the metrics of rewards and log-probabilities are means over tokens."""
        return self.reference_free and self.terms[0].row.mean_tokens

    @property
    def reward_scale(self) -> float:
        """The factor of the logged rewards: beta, which a term has in ``beta`` or in ``scale``."""
        first = min(self.terms, key=lambda term: term.row.reference_free)
        return first.scale * first.beta

    def settled(self, reward_N: Tensor, context: StepContext) -> StepContext:
        """The context with the rewards of the micro-batch in the running mean, where there is one
        and the micro-batch is the whole step."""
        if self.running is None or context.share < 1:
            return context
        reward_N = reward_N.detach()
        mean, _ = self.running.with_rewards(reward_N.sum(), reward_N.new_tensor(len(reward_N)))
        return replace(context, reference_point=mean)

    def loss(self, policy: Scores, reward_N: Tensor, draw: Draw, context: StepContext) -> Tensor:
        """Losses of a micro-batch, ``(B,)`` or ``(N,)``, with gradient."""
        if self.safeguard is not None:
            lambda_B = loser_scale(policy.residuals, self.safeguard)
            policy = replace(policy, score_N=with_loser_scaled(policy.score_N, lambda_B))
            reward_N = with_loser_scaled(reward_N, lambda_B)
        terms = [term.weight * term.loss(policy, reward_N, draw, context) for term in self.terms]
        total = torch.stack(terms).sum(dim=0) if len(terms) > 1 else terms[0]
        if self.weighted:
            assert policy.weight_N is not None, "the task gives no weights"
            total = total * policy.weight_N.chunk(2)[0] * policy.weight_N.chunk(2)[1]
        return total if policy.added is None else total + policy.added

    def guard_metrics(self, policy: Scores) -> Metrics:
        """The mean of the safeguard's λ; nothing where there is none."""
        if self.safeguard is None:
            return {}
        return {"safeguard/loser_scale": loser_scale(policy.residuals, self.safeguard).mean()}

    def baseline(self, context: StepContext) -> Metrics:
        """The running mean under TRL's name, times beta as the rewards; nothing where there is
        none."""
        if self.running is None:
            return {}
        return {"delta": self.reward_scale * torch.as_tensor(context.reference_point)}

    def metrics(self, reward_N: Tensor, draw: Draw, context: StepContext) -> Metrics:
        """The rewards under TRL's metric names.

        They are sums over tokens, as in its DPO, or what the loss reads where there is no
        reference: means in its ORPO and SimPO. Labelled items are averaged by label.
        """
        unit_N = draw.size_N if self.shows_means else 1.0
        shown_N = self.reward_scale * reward_N / unit_N
        if draw.desirable_N is None:
            chosen_B, rejected_B = shown_N.chunk(2)
            return summary(chosen_B, rejected_B, draw.outcome_B) | self.baseline(context)
        metrics = by_label("rewards", shown_N, draw.desirable_N)
        if self.needs_kl:
            metrics["kl"] = torch.as_tensor(context.reference_point)
        return metrics | self.baseline(context)
