"""What a loss reads: the scores of a forward pass, the data of its items, and the step around it.

Shapes: ``B`` pairs, ``N`` items: ``2B``, chosen first, or single items with their labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from diffdpo.losses.means import Metrics
from diffdpo.losses.safeguard import Residuals


@dataclass(frozen=True)
class Scores:
    """The result of one forward pass: a score for each item, and the modality's own metrics."""

    score_N: Tensor  # log-likelihood surrogates in nats, float32, higher is better
    prompt_B: Tensor | None = None  # log p of the prompts before the chosen items, where scored
    metrics: Metrics = field(default_factory=dict)  # the modality's own, of this pass
    added: Tensor | None = None  # a loss of the network itself, such as a router's, in a mean
    residuals: Residuals | None = None  # where items are predicted as vectors, as pictures are
    likelihood_N: Tensor | None = None  # log-likelihoods, where the scores weigh tokens unequally
    weight_N: Tensor | None = None  # WPO's: how likely the policy is to write an item itself


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
class StepPairs:
    """Scores and rewards of all pairs of an effective batch, chosen and rejected, ``(2, P)`` each,
    without gradient; and where those of every micro-batch of this process begin."""

    score_2P: Tensor
    reward_2P: Tensor
    starts: tuple[int, ...]


@dataclass(frozen=True)
class StepContext:
    """What the loss of a micro-batch must know of its whole effective batch."""

    share: float = 1.0  # of the effective batch that this micro-batch is
    reference_point: Tensor | float = 0.0  # KTO's z or BCO's δ, nats
    chosen_tokens: Tensor | float = 1.0  # means per pair
    rejected_tokens: Tensor | float = 1.0
    prompt_tokens: Tensor | float = 0.0
    pairs: StepPairs | None = None  # where a loss compares them, and the micro-batch is not all
    index: int = 0  # of the micro-batch, on its process

    def at(self, index: int) -> StepContext:
        """The context of the micro-batch ``index``."""
        return replace(self, index=index)
