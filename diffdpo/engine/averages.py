"""Moving averages of the trained weights: one that is exported, one that is the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor, nn

from diffdpo.engine.sharding import exchanged, local
from diffdpo.reference import NetworkReference, Reference, unwrapped


class MovingAverage:
    """mean ← decay · mean + (1 − decay) · weight, of every weight, after each step that is taken
    and whose number ``every`` divides.

    It begins as an exact copy, in the dtype and on the device of the weights, which are float32
    wherever they are trained.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float, every: int = 1) -> None:
        """Of ``weights`` by name, the very tensors that the optimizer changes. Raises ValueError
        unless 0 ≤ decay < 1."""
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay, self.every = decay, every
        self.begin(weights)

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """Begin as a copy of these ``weights``."""
        self.weights = dict(weights)
        self.means = {name: weight.detach().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def update(self, taken: Tensor, step: int) -> None:
        """Move towards the weights after ``step``, the first being 1, where it is its turn and was
        ``taken``, a tensor of one truth value.

        Decided on the device: to read it would make the host wait.
        """
        if step % self.every:
            return
        for name, mean in self.means.items():
            rate = (1 - self.decay) * taken.to(mean.device, mean.dtype)
            local(mean).lerp_(local(self.weights[name].detach()), rate)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the network computes with the means instead of the weights.

        No number is copied, unless weights are in shares. A graph that still waits for its backward
        pass must not be alive.
        """
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def swap(self) -> None:
        """Exchange means and weights."""
        for name, weight in self.weights.items():
            self.means[name] = exchanged(weight, self.means[name])


Averages = Mapping[str, MovingAverage]  # by what each is for: "reference", "ema"
NO_AVERAGES: Averages = MappingProxyType({})
EXPORTED = "ema."  # before the names of the means that are exported in place of the weights


def tensors_of(averages: Averages) -> dict[str, Tensor]:
    """All means, under the names that a checkpoint has for them."""
    return {f"{use}.{name}": mean for use, a in averages.items() for name, mean in a.means.items()}


class MovingReference(NetworkReference):
    """The reference is a moving average of the policy (Linear-DPO, arXiv 2605.21123), or every so
    many steps a mixture of itself and the policy (TR-DPO, Gorbatovski et al. 2024, arXiv
    2404.09656): the same with decay 1 − α.

    It needs a second copy of what is trained, and no second network: for scoring, the average
    stands in the policy's place.
    """

    starts_equal = True

    def __init__(self, average: MovingAverage) -> None:
        self.average = average
        every = f", every {average.every} steps" if average.every > 1 else ""
        self.name = f"a moving average of the policy, decay {average.decay:g}{every}"

    @contextmanager
    def network(self, model: nn.Module) -> Iterator[nn.Module]:
        with self.average.in_place():
            yield unwrapped(model)

    @property
    def kept(self) -> MovingReference:
        return self


def averages_of(
    reference: Reference, weights: Mapping[str, Tensor], decay: float | None
) -> Averages:
    """The moving averages of a run: of a ``reference`` that moves, and of the ``weights``, with
    this ``decay``, where one is exported."""
    found = {}
    if isinstance(reference, MovingReference):
        # Anew: the weights may have been put in shares since the reference was made.
        reference.average.begin(weights)
        found["reference"] = reference.average
    if decay is not None:
        found["ema"] = MovingAverage(weights, decay)
    return found
