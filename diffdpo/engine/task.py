"""What a modality contributes to training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from diffdpo.losses.means import Metrics
from diffdpo.objective.scores import Draw, Scores, StepContext


class Task(Protocol):
    """From rows to draws, and from a network and a draw to one score per item."""

    @property
    def collate(self) -> Callable[[list[Any]], Any]:
        """Makes a batch of ``B`` pairs, with all that is random, of the items that the rows gave.
        It runs in the data workers, to which it is sent, and knows no network."""
        ...

    def draw(self, batch: Any) -> Any:
        """The batch on the device, and all that has no gradient, once, for policy and reference."""
        ...

    def score(self, model: nn.Module, draw: Any) -> Scores:
        """Log-likelihood surrogates ``(N,)`` in nats, float32, higher is better, chosen first."""
        ...

    def metrics(
        self, policy: Scores, frozen_N: Tensor | float, draw: Any, context: StepContext
    ) -> Metrics:
        """The modality's own metrics of a micro-batch, still on the device."""
        ...

    def reference_point_draws(self, batches: Sequence[Any]) -> Iterable[Draw]:
        """The draws of a step over which KTO's reference point, a mean reward, is taken."""
        ...

    def token_counts(self, batch: Any) -> tuple[int, int, int, int]:
        """Numbers of scored tokens in chosen items, in rejected items and in prompts; and of pairs.

        A picture counts as one token.
        """
        ...

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """The repeated layers of a network, of which one at a time is whole where the weights are
        held in shares."""
        ...
