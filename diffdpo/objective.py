"""From the scores of a batch to its losses: the terms, their weights, scales and units.

Shapes: ``B`` pairs, ``N`` items: ``2B``, chosen first, or single items with their labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from diffdpo.errors import UserError, short
from diffdpo.extensions import named_row
from diffdpo.losses import LOSSES, Loss, as_loss, preference_loss
from diffdpo.losses.means import Metrics, by_label
from diffdpo.losses.safeguard import Residuals, loser_scale, with_loser_scaled
from diffdpo.preference import summary


@dataclass(frozen=True)
class Scores:
    """The result of one forward pass: a score for each item, and the modality's own metrics."""

    score_N: Tensor  # log-likelihood surrogates in nats, float32, higher is better
    prompt_B: Tensor | None = None  # log p of the prompts before the chosen items, where scored
    metrics: Metrics = field(default_factory=dict)  # the modality's own, of this pass
    added: Tensor | None = None  # a loss of the network itself, such as a router's, in a mean
    residuals: Residuals | None = None  # where items are predicted as vectors, as pictures are


class Draw(Protocol):
    """What a loss reads of the inputs of a forward pass; a task's own draw has more."""

    @property
    def outcome_B(self) -> Tensor | None:
        """P(chosen ≻ rejected) of every pair; None where every label is certain."""

    @property
    def gap_B(self) -> Tensor | None:
        """The gap that the margin of every pair is to have; None where the data have no scores."""

    @property
    def desirable_N(self) -> Tensor | None:
        """Labels of single items; None where the items are pairs."""

    @property
    def reference_N(self) -> Tensor | None:
        """The reference's scores, where they were computed and stored before training."""

    @property
    def size_N(self) -> Tensor | float:
        """The number of scored tokens of each item; 1 for a picture."""


@dataclass(frozen=True)
class StepContext:
    """What the loss of a micro-batch must know of its whole effective batch."""

    share: float = 1.0  # of the effective batch that this micro-batch is
    reference_point: Tensor | float = 0.0  # KTO's z, nats
    chosen_tokens: Tensor | float = 1.0  # means per pair
    rejected_tokens: Tensor | float = 1.0
    prompt_tokens: Tensor | float = 0.0


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

    @property
    def row(self) -> Loss:
        return LOSSES[self.name]

    def loss(self, policy: Scores, reward_N: Tensor, draw: Draw, context: StepContext) -> Tensor:
        """Losses ``(B,)`` of pairs or ``(N,)`` of labelled items, with gradient."""
        value_N = self.scale * self.in_unit(policy, reward_N, draw, context)
        z = self.scale * context.reference_point
        if draw.desirable_N is not None:
            return self.row.fn(value_N, draw.desirable_N, z, beta=self.beta, **self.options)
        chosen_B, rejected_B = value_N.chunk(2)
        nll_B, swapped_nll_B = self.nll(policy, context)
        gap_B = draw.gap_B if self.row.reads_gap else None
        loss_B = self.of_pairs(chosen_B, rejected_B, z, nll_B, gap_B)
        if draw.outcome_B is None or gap_B is not None:  # a gap is the whole label
            return loss_B
        # The expectation over the label; for the sigmoid this is cDPO with ε = 1 − outcome.
        swapped_B = self.of_pairs(rejected_B, chosen_B, z, swapped_nll_B)
        return draw.outcome_B * loss_B + (1 - draw.outcome_B) * swapped_B

    def of_pairs(
        self,
        chosen_B: Tensor,
        rejected_B: Tensor,
        z: Tensor | float = 0.0,
        nll_B: Tensor | None = None,
        gap_B: Tensor | None = None,
    ) -> Tensor:
        """Losses ``(B,)`` of scaled rewards."""
        own = self.options
        return preference_loss(
            self.name, chosen_B, rejected_B, beta=self.beta, kl=z, nll_B=nll_B, gap_B=gap_B, **own
        )

    def in_unit(self, policy: Scores, reward_N: Tensor, draw: Draw, context: StepContext) -> Tensor:
        """What the loss reads: rewards, or scores if it has no reference; as sums or as means."""
        value_N = policy.score_N if self.row.reference_free else reward_N
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
    is.
    """

    terms: tuple[Term, ...]
    safeguard: float | None = None

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
    def reward_scale(self) -> float:
        """The factor of the logged rewards: beta, which a term has in ``beta`` or in ``scale``."""
        first = min(self.terms, key=lambda term: term.row.reference_free)
        return first.scale * first.beta

    def loss(self, policy: Scores, reward_N: Tensor, draw: Draw, context: StepContext) -> Tensor:
        """Losses of a micro-batch, ``(B,)`` or ``(N,)``, with gradient."""
        if self.safeguard is not None:
            lambda_B = loser_scale(policy.residuals, self.safeguard)
            policy = replace(policy, score_N=with_loser_scaled(policy.score_N, lambda_B))
            reward_N = with_loser_scaled(reward_N, lambda_B)
        terms = [term.weight * term.loss(policy, reward_N, draw, context) for term in self.terms]
        total = torch.stack(terms).sum(dim=0) if len(terms) > 1 else terms[0]
        return total if policy.added is None else total + policy.added

    def guard_metrics(self, policy: Scores) -> Metrics:
        """The mean of the safeguard's λ; nothing where there is none."""
        if self.safeguard is None:
            return {}
        return {"safeguard/loser_scale": loser_scale(policy.residuals, self.safeguard).mean()}

    def metrics(self, reward_N: Tensor, draw: Draw, context: StepContext) -> Metrics:
        """The rewards under TRL's metric names.

        They are sums over tokens, as in its DPO, or means where there is no reference, as in its
        ORPO and SimPO. Labelled items are averaged by label.
        """
        unit_N = draw.size_N if self.reference_free else 1.0
        shown_N = self.reward_scale * reward_N / unit_N
        if draw.desirable_N is None:
            chosen_B, rejected_B = shown_N.chunk(2)
            return summary(chosen_B, rejected_B, draw.outcome_B)
        metrics = by_label("rewards", shown_N, draw.desirable_N)
        if self.needs_kl:
            metrics["kl"] = torch.as_tensor(context.reference_point)
        return metrics


class LossSettings(Protocol):
    """Settings that hold the options of the losses, each under the name that the loss gives it."""

    @property
    def label_smoothing(self) -> float: ...


def make_objective(
    settings: LossSettings,
    names: Sequence[str],
    weights: Sequence[float] = (),
    beta: float = 1.0,
    scale: float = 1.0,
) -> Objective:
    """The weighted sum of the named losses, each with the options that it reads of ``settings``.

    Raises UserError for unknown losses, weights that do not match, label smoothing that no loss
    has, and sums of losses of different kinds.
    """
    weights = list(weights) or [1.0] * len(names)
    if len(weights) != len(names):
        raise UserError(f"--loss_weights: {len(weights)} weights for {len(names)} losses")
    check_names(settings, names)
    # Beta weighs the distance from a reference; a loss without one reads the plain score.
    scales = [1.0 if LOSSES[name].reference_free else scale for name in names]
    terms = tuple(
        Term(name, weight, beta, scale, read_options(settings, LOSSES[name]))
        for name, weight, scale in zip(names, weights, scales, strict=True)
    )
    single = [term.name for term in terms if not term.row.paired]
    if single and len(terms) > 1:
        raise UserError(
            f"--loss_type: {', '.join(single)} judges single items and cannot be added to another"
            " loss"
        )
    for term in terms:
        try_out(term)
    return Objective(terms, getattr(settings, "winner_safeguard", None))


def try_out(term: Term) -> None:
    """Raise UserError where a loss does not take its options, or gives anything but one finite
    number a pair."""
    value_2 = torch.tensor([-1.0, -2.0])  # rewards, and log-probabilities as well
    try:
        loss_2 = term.of_pairs(value_2, value_2 - 0.5, nll_B=-value_2, gap_B=-value_2)
        wrong = "" if loss_2.shape == (2,) else f"gives shape {tuple(loss_2.shape)} for 2 pairs"
        wrong = wrong or ("" if loss_2.isfinite().all() else f"is not finite: {loss_2.tolist()}")
    except Exception as error:  # a user's own loss may raise anything
        wrong = short(error) or type(error).__name__
    if wrong:
        raise UserError(f"--loss_type {term.name}, beta {term.beta:g}: {wrong}")


def check_names(settings: LossSettings, names: Sequence[str]) -> None:
    """Raise UserError for an unknown loss, and for label smoothing that none of the losses has."""
    for name in names:
        named_row(name, LOSSES, "loss_type", as_loss)
    if settings.label_smoothing and not any(
        "label_smoothing" in LOSSES[name].options for name in names
    ):
        having = [name for name, row in LOSSES.items() if "label_smoothing" in row.options]
        raise UserError(
            f"--label_smoothing: loss {names[0]} has none; these have: {', '.join(having)}"
        )


def read_options(settings: LossSettings, row: Loss) -> dict[str, float]:
    """The settings that the loss reads, by name."""
    given = {name: getattr(settings, name, None) for name in row.options}
    # Zero means "not given" on the command line: robust and exo_pair keep their published defaults.
    return {
        name: value
        for name, value in given.items()
        if value is not None and not (name == "label_smoothing" and value == 0)
    }
