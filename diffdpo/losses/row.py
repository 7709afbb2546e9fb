"""A row of the table of losses: the function, and what a trainer has to know about it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# Arguments that come with the pairs; the other keywords are settings.
DATA = ("nll_B", "gap_B", "reference_margin_B", "baseline")


@dataclass(frozen=True)
class Loss:
    """A row of the table: the function, and what a trainer has to know about it."""

    fn: Callable[..., Tensor]
    paired: bool = True  # False: judges single items, fn(reward_N, desirable_N, kl, *, beta, ...)
    reference_free: bool = False  # the reference score is zero
    mean_tokens: bool = False  # text scores are means over tokens, not sums
    mean_of_batch: bool = False  # ... over all tokens of a step, as a language model's loss
    needs_kl: bool = False  # reads the reference point z
    of_margin: bool = False  # reads x − y alone, so that what both items share cancels
    with_sft: bool = False  # published as a sum with sft
    of_step: bool = False  # compares the pairs of a step with each other
    running_mean: bool = False  # its reference point is the mean reward of the run so far
    only: str | None = None  # "text" or "images", where it is not defined on the other's scores

    @property
    def options(self) -> set[str]:
        """The names of the settings that this loss reads, besides beta."""
        # Read off the signature, so that a new loss declares its settings in one place.
        keywords = inspect.signature(self.fn).parameters.values()
        return {p.name for p in keywords if p.kind is p.KEYWORD_ONLY} - {"beta", *DATA}

    @property
    def data(self) -> set[str]:
        """The names of what comes with the pairs that this loss reads, besides the rewards."""
        return set(inspect.signature(self.fn).parameters) & set(DATA)

    @property
    def reads_nll(self) -> bool:
        """Whether the loss takes the NLL of the chosen item as well."""
        return "nll_B" in self.data

    @property
    def reads_gap(self) -> bool:
        """Whether the loss takes the gap that the margin of each pair is to have."""
        return "gap_B" in self.data


def as_loss(own: object) -> Loss:
    """A row of the table from a user's own object: a ``Loss``, or a function for a paired loss.

    Raises TypeError where it is neither, or the function has another signature.
    """
    if isinstance(own, Loss):
        return own
    if not callable(own):
        raise TypeError("is neither a function of rewards nor a diffdpo.losses.Loss")
    parameters = list(inspect.signature(own).parameters.values())
    positional = [p for p in parameters if p.kind is not p.KEYWORD_ONLY]
    if len(positional) != 2 or "beta" not in {p.name for p in parameters}:
        raise TypeError("a loss is f(chosen_B, rejected_B, *, beta) -> loss_B")
    return Loss(own)
