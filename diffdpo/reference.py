"""The reference policy: adapters off, a frozen copy, stored scores, or zero.

It is always scored by the policy's own code on the policy's own draw, so that the two differ in
their weights and in nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffdpo.objective.scores import Scores

ScoreFunction = Callable[[nn.Module, Any], Scores]  # the task's own (model, draw) -> scores


class Reference(Protocol):
    """Gives the reference score of every item of a draw, without gradient."""

    name: str
    starts_equal: bool  # policy and reference agree exactly before the first step

    def score(self, score: ScoreFunction, model: nn.Module, draw: Any) -> Tensor | float:
        """Scores ``(N,)`` in nats."""
        ...

    def network(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """A context that gives the reference as a network to run."""
        ...

    @property
    def kept(self) -> Reference | None:
        """The reference that remains once its scores are stored.

        It is itself where it shares the policy's network, None where it is a network of its own:
        that one is freed, which saves its memory.
        """
        ...


class NetworkReference(Reference, Protocol):
    """A reference of a network, which is run on every draw."""

    def score(self, score: ScoreFunction, model: nn.Module, draw: Any) -> Tensor:
        with torch.no_grad(), self.network(model) as frozen:
            return score(frozen, draw).score_N


class AdapterOff(NetworkReference):
    """LoRA: the base weights without the adapters are the reference; no second copy in memory."""

    name = "the same network with its adapters off"
    starts_equal = True
    found: tuple[nn.Module, list[Any]] | None = None  # a network, and its layers with adapters

    @contextmanager
    def network(self, model: nn.Module) -> Iterator[nn.Module]:
        bare = unwrapped(model)
        layers = self.layers(bare)
        # The libraries' own switches walk over all modules and all their weights: twice a step,
        # 50 ms of a host on which a GPU waits. Nothing here needs a gradient or loses one.
        for layer in layers:
            layer._disable_adapters = True
        try:
            yield bare
        finally:
            for layer in layers:
                layer._disable_adapters = False

    def layers(self, bare: nn.Module) -> list[Any]:
        """The layers of a network that have an adapter, looked for once."""
        if self.found is None or self.found[0] is not bare:
            from peft.tuners.tuners_utils import BaseTunerLayer
            from peft.utils import ModulesToSaveWrapper

            kinds = (BaseTunerLayer, ModulesToSaveWrapper)
            self.found = bare, [module for module in bare.modules() if isinstance(module, kinds)]
        return self.found[1]

    @property
    def kept(self) -> Reference | None:
        return self


class BaseModel(AdapterOff):
    """LoRA that is trained further, against the model without it."""

    starts_equal = False


class AdapterCopy(AdapterOff):
    """LoRA that is trained further: the reference is a copy of the adapter in its first state."""

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


class OtherAdapter(AdapterCopy):
    """LoRA against another adapter on the same network."""

    starts_equal = False

    def __init__(self, name: str) -> None:
        self.name = f"{name}, an adapter on the same network"


class FrozenCopy(NetworkReference):
    """Full fine-tune: a copy of the network as it was before the first step, in its dtype."""

    name = "a frozen copy"
    starts_equal = True

    def __init__(
        self, model: nn.Module, copied: Callable[[nn.Module], nn.Module] = copy.deepcopy
    ) -> None:
        """``copied`` makes the copy; one without values gets them with its shares."""
        # Copied before the first step, in train mode and with weights that require gradients as the
        # policy's: some layers round otherwise in eval mode or with frozen weights, and the first
        # rewards must be exactly 0. No gradient is computed.
        self.copy = copied(model).train()

    def network(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        return nullcontext(self.copy)

    @property
    def kept(self) -> Reference | None:
        return None


class OtherModel(FrozenCopy):
    """Another model than the one that training starts from."""

    starts_equal = False

    def __init__(self, model: nn.Module, name: str) -> None:
        self.copy, self.name = model.requires_grad_(False).train(), name


class InitialNetwork(NetworkReference):
    """The network itself, before its first step.

    A full fine-tune whose reference scores are stored beforehand needs no copy of the network.
    """

    name = "the network as it was before the first step"
    starts_equal = True

    def network(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        return nullcontext(unwrapped(model))

    @property
    def kept(self) -> Reference | None:
        return None


class StoredScores:
    """Scores that were computed before training and come with every draw.

    No forward pass is needed, and a separate reference network is freed.
    """

    def __init__(self, source: Reference) -> None:
        self.name = f"stored scores of {source.name}"
        self.starts_equal = source.starts_equal  # up to rounding: computed in other batches
        self.source = source.kept

    def score(self, score: ScoreFunction, model: nn.Module, draw: Any) -> Tensor:
        return draw.reference_N

    def network(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """The reference where it is a part of the policy's network, else the policy's network."""
        return self.source.network(model) if self.source else nullcontext(unwrapped(model))

    @property
    def kept(self) -> Reference | None:
        return self


class Zero:
    """Reference-free losses: the reference scores every item as zero."""

    name = "none (the loss is reference-free)"
    starts_equal = False

    def score(self, score: ScoreFunction, model: nn.Module, draw: Any) -> float:
        return 0.0

    def network(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """The policy's network: there is no other."""
        return nullcontext(unwrapped(model))

    @property
    def kept(self) -> Reference | None:
        return self


def without_dropout(model: nn.Module) -> None:
    """Set every dropout rate to 0, that of layers and that of plain attributes.

    Policy and reference must be one function of a draw, and a resumed run the same as one that was
    never stopped.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        # Attention layers keep plain rates that they hand to a function in the forward pass.
        for name, value in vars(module).items():
            if is_dropout_rate(name) and isinstance(value, float):
                setattr(module, name, 0.0)
        clear_config(module)


def clear_config(module: nn.Module) -> None:
    """Set the dropout rates to 0 that a layer reads from its configuration, as Falcon's layers do.

    The layer gets a copy: the model's own configuration, with which the result is saved, keeps its
    rates.
    """
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "to_diff_dict") or hasattr(module, "save_pretrained"):
        return
    rates = {
        k for k, v in vars(config).items() if is_dropout_rate(k) and isinstance(v, float) and v
    }
    if rates:
        cleared: Any = copy.copy(config)
        for name in rates:
            setattr(cleared, name, 0.0)
        module.config = cleared


def is_dropout_rate(name: str) -> bool:
    """Whether an attribute of this name is a rate of dropout, or of the jitter of a router."""
    noise = "dropout" in name or "layerdrop" in name or "jitter" in name
    return noise or name.endswith("pdrop")


def unwrapped(model: Any) -> Any:
    """The network inside a DistributedDataParallel or compile wrapper."""
    model = getattr(model, "module", model)
    return getattr(model, "_orig_mod", model)
