"""All that a modality contributes to training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from diffdpo.objective import Draw, Metrics, Scores, StepContext


class Task(Protocol):
    """From rows to draws, and from a network and a draw to one score per item."""

    def collate(self, items: list[Any]) -> Any:
        """A batch of ``B`` pairs from what the rows gave; runs in the data workers."""
        ...

    def draw(self, batch: Any) -> Any:
        """Everything random and everything without gradient, once, for policy and reference."""
        ...

    def score(self, model: nn.Module, draw: Any) -> Scores:
        """Log-likelihood surrogates ``(N,)`` in nats, float32, higher is better, chosen first."""
        ...

    def metrics(
        self, policy: Scores, frozen_N: Tensor | float, draw: Any, context: StepContext
    ) -> Metrics:
        """The modality's own means of a micro-batch, still on the device."""
        ...

    def reference_point_draws(self, batches: Sequence[Any]) -> Iterable[Draw]:
        """The draws of a step whose mean reward is KTO's reference point."""
        ...

    def token_counts(self, batch: Any) -> tuple[int, int, int, int]:
        """Scored tokens of chosen items, of rejected ones, of prompts; and pairs. A picture counts
        as one token."""
        ...
