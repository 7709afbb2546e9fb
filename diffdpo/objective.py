"""From the scores of a batch to its loss: which loss, its settings, its scale and soft labels, in
one value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from diffdpo.config import TrainSettings
from diffdpo.errors import UserError
from diffdpo.losses import LOSSES, Loss, preference_loss
from diffdpo.preference import implicit_reward, summary

Metrics = dict[
    str, Tensor
]  # a mean over the batch, or (sum, count) of a mean over some of its items


class Engine(Protocol):
    """What an objective may ask of the engine before a step."""

    task: Any

    def mean_reward(self, draws: Iterable[Any]) -> Tensor:
        """The mean reward over all items and processes, without gradient."""
        ...

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        ...


class Criterion(Protocol):
    """What the engine minimises."""

    @property
    def reward_scale(self) -> float: ...

    def prepare(self, engine: Engine, micro_batches: list[Any]) -> Any:
        """What a step must know of its whole effective batch before the first micro-batch; handed
        to ``judge``."""
        ...

    def judge(
        self, policy_N: Tensor, reference_N: Tensor | float, draw: Any, known: Any
    ) -> tuple[Tensor, Metrics]:
        """The loss of a micro-batch, with gradient, and what to report of it."""
        ...


@dataclass(frozen=True)
class Objective:
    """``loss_B = L(scale · chosen, scale · rejected; beta)``.

    Text sets ``beta`` and leaves ``scale`` at 1, so that every value is the published one. Images
    put their beta into ``scale``: the losses that depend on beta · reward alone come out the same,
    and the squared ones (IPO, SPPO) are β² times the published value with the same minimum. At beta
    5000 the published IPO is 1e-8 with a gradient below Adam's epsilon; this one trains."""

    name: str
    beta: float = 1.0
    scale: float = 1.0
    options: dict[str, float] = field(default_factory=dict)

    @property
    def row(self) -> Loss:
        return LOSSES[self.name]

    def __call__(
        self,
        chosen_B: Tensor,
        rejected_B: Tensor,
        outcome_B: Tensor | None = None,
        kl: Tensor | float = 0.0,
        nll_B: Tensor | None = None,
    ) -> Tensor:
        """Losses ``(B,)`` of rewards before beta. ``outcome_B`` is P(chosen ≻ rejected) where
        labels are soft: the loss is then its expectation over the label, which for the sigmoid is
        cDPO with ε = 1 − outcome."""
        chosen_B, rejected_B, kl = self.scale * chosen_B, self.scale * rejected_B, self.scale * kl
        loss_B = preference_loss(
            self.name, chosen_B, rejected_B, beta=self.beta, kl=kl, nll_B=nll_B, **self.options
        )
        if outcome_B is None:
            return loss_B
        swapped_B = preference_loss(
            self.name, rejected_B, chosen_B, beta=self.beta, kl=kl, nll_B=nll_B, **self.options
        )
        return outcome_B * loss_B + (1 - outcome_B) * swapped_B

    @property
    def reward_scale(self) -> float:
        """What the logged rewards are multiplied with: beta, wherever it stands."""
        return self.scale * self.beta

    def prepare(self, engine: Engine, micro_batches: list[Any]) -> Tensor | float:
        """KTO's z by the rule of Diffusion-KTO (Li et al. 2024): the mean reward of the whole
        effective batch, clamped at 0. A pass of its own over all micro-batches and processes, so
        that z does not depend on the cut."""
        if not self.row.needs_kl:
            return 0.0
        return engine.mean_reward(engine.task.draw(batch) for batch in micro_batches).clamp(min=0)

    def judge(
        self, policy_N: Tensor, reference_N: Tensor | float, draw: Any, known: Any
    ) -> tuple[Tensor, Metrics]:
        """Pairs, winners first."""
        chosen_B, rejected_B = implicit_reward(policy_N, reference_N).chunk(2)
        loss = self(chosen_B, rejected_B, draw.outcome_B, known).mean()
        with torch.no_grad():
            return loss, summary(self.reward_scale * chosen_B, self.reward_scale * rejected_B)


def fraction(metric: Tensor) -> Tensor:
    """A metric as (sum, count): a plain mean counts as one."""
    return (
        metric.float()
        if metric.dim()
        else torch.stack([metric.float(), metric.new_ones(()).float()])
    )


def complete(names: list[str], fractions: list[list[float]]) -> dict[str, float]:
    """The metrics of a step by name, without those that counted nothing; the margin follows from
    the two rewards."""
    found = {
        name: total / count for name, (total, count) in zip(names, fractions, strict=True) if count
    }
    if {"rewards/chosen", "rewards/rejected"} <= set(found):
        found.setdefault("rewards/margins", found["rewards/chosen"] - found["rewards/rejected"])
    return found


def loss_options(settings: TrainSettings, name: str | None = None) -> dict[str, float]:
    """Those of the settings that the loss ``name`` reads, or the one of the settings.

    Raises UserError for an unknown loss, and where label smoothing is asked of a loss that has
    none."""
    name = name or settings.loss_type
    row = LOSSES.get(name)
    if row is None:
        raise UserError(f"--loss_type {name!r} is unknown; known: {', '.join(LOSSES)}")
    if settings.label_smoothing and "label_smoothing" not in row.options:
        having = [name for name, other in LOSSES.items() if "label_smoothing" in other.options]
        raise UserError(f"--label_smoothing: loss {name} has none; these have: {', '.join(having)}")
    return read_options(settings, row)


def read_options(settings: TrainSettings, row: Loss) -> dict[str, float]:
    """Those of the settings that the loss reads."""
    # Zero means "not given" on the command line, so that robust and exo_pair keep their published
    # defaults.
    given = {name: getattr(settings, name, None) for name in row.options}
    return {
        k: v for k, v in given.items() if v is not None and not (k == "label_smoothing" and v == 0)
    }
