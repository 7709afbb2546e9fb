"""The reference policy: adapters off, a frozen copy, or zero; always scored by the policy's own
code and draw."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Score = Callable[[nn.Module, Any], Tensor]  # the task's own (model, draw) -> (N,) nats


class Reference(Protocol):
    """Gives the reference score of every item of a draw, without gradient."""

    name: str
    starts_equal: bool  # policy and reference agree exactly before the first step

    def score(self, task_score: Score, model: nn.Module, draw: Any) -> Tensor | float:
        """Scores ``(N,)`` in nats."""
        ...

    def network(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """The reference as a network to run, for as long as the block lasts."""
        ...


class AdapterOff:
    """LoRA: the base weights under the adapters are the reference; no second copy in memory."""

    name = "the same network with its adapters off"
    starts_equal = True

    def score(self, task_score: Score, model: nn.Module, draw: Any) -> Tensor:
        with torch.no_grad(), self.network(model) as frozen:
            return task_score(frozen, draw)

    @contextmanager
    def network(self, model: nn.Module) -> Iterator[nn.Module]:
        bare = unwrapped(model)
        bare.disable_adapters()
        try:
            yield bare
        finally:
            bare.enable_adapters()


class AdapterCopy(AdapterOff):
    """LoRA that is trained further: its own first state, kept beside it as a second adapter, is the
    reference."""

    name = "the adapter as it was before the first step"
    trained, frozen = "default", "reference"

    @contextmanager
    def network(self, model: nn.Module) -> Iterator[nn.Module]:
        bare = unwrapped(model)
        bare.set_adapter(self.frozen)
        try:
            yield bare
        finally:
            bare.set_adapter(self.trained)


class Start(AdapterOff):
    """The network itself, which is its own reference until the first step."""

    name = "the network as it was before the first step"

    @contextmanager
    def network(self, model: nn.Module) -> Iterator[nn.Module]:
        yield unwrapped(model)


class FrozenCopy:
    """Full fine-tune: a copy of the network as it was before the first step, in the policy's own
    precision."""

    name = "a frozen copy"
    starts_equal = True

    def __init__(self, model: nn.Module) -> None:
        # In the policy's mode as well: some layers round differently in train and eval mode,
        # dropout aside.
        self.copy = copy.deepcopy(model).requires_grad_(False).train()

    def score(self, task_score: Score, model: nn.Module, draw: Any) -> Tensor:
        with torch.no_grad():
            return task_score(self.copy, draw)

    def network(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        return nullcontext(self.copy)


class OtherModel(FrozenCopy):
    """A model of its own, not the one that training starts from."""

    starts_equal = False

    def __init__(self, model: nn.Module, name: str) -> None:
        self.copy, self.name = model.requires_grad_(False).train(), name


class Stored:
    """Scores that were computed before training and come with every draw: no forward pass, no
    second network."""

    def __init__(self, source: Reference) -> None:
        self.name = f"stored scores of {source.name}"
        self.starts_equal = (
            source.starts_equal
        )  # up to rounding: they were computed in other batches
        # Adapters are switched at no cost; a network of its own is let go, which is what storing is
        # for.
        self.switch = (
            source if isinstance(source, AdapterOff) and not isinstance(source, Start) else None
        )

    def score(self, task_score: Score, model: nn.Module, draw: Any) -> Tensor:
        return draw.reference_N

    def network(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """The reference where it is part of the policy's network; else there is no other network to
        show."""
        return self.switch.network(model) if self.switch else nullcontext(unwrapped(model))


class Zero:
    """Reference-free losses: the reference score of everything is zero."""

    name = "none (the loss is reference-free)"
    starts_equal = False

    def score(self, task_score: Score, model: nn.Module, draw: Any) -> float:
        return 0.0

    def network(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """There is no other network to show."""
        return nullcontext(unwrapped(model))


def without_dropout(model: nn.Module) -> None:
    """Set every dropout to 0, layers and plain rates alike: policy and reference must be one
    function of a draw."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def unwrapped(model: Any) -> Any:
    """The network inside a DistributedDataParallel or compile wrapper."""
    model = getattr(model, "module", model)
    return getattr(model, "_orig_mod", model)
