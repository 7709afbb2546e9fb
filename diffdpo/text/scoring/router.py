"""The load-balancing loss of a mixture of experts (Fedus et al. 2021, eq. 4), as transformers
computes it and TRL adds it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diffdpo.errors import UserError
from diffdpo.text.scoring.logprob import COLUMNS

# Columns beside those of ``logprob``, the same in every row: the weighted loss, which has a
# gradient, and the loss itself.
ADDED, BALANCE = COLUMNS, COLUMNS + 1


@dataclass(frozen=True)
class RouterBalance:
    """The loss of a network's routers over the tokens of a micro-batch."""

    weight: float
    experts: int
    chosen: int  # experts that a token is given to
    fn: Callable[..., Any]  # the architecture's own

    def columns(self, passes: list[tuple[Tensor, ...]], count: int) -> Tensor:
        """The columns ``ADDED`` and ``BALANCE``, ``(count, 2)``, float32. ``passes`` hold for every
        forward pass the router's logits ``(tokens, experts)`` of each layer, without padding."""
        layers = tuple(torch.cat(layer).float() for layer in zip(*passes, strict=True))
        loss = self.fn(layers, self.experts, self.chosen, None)
        return torch.stack([self.weight * loss, loss.detach()]).expand(count, 2)


def router_balance(network: PreTrainedModel, weight: float | None) -> RouterBalance | None:
    """The loss with ``weight``, or by default with that of the configuration; None where it is 0 or
    the network has no routers.

    Raises UserError where the network's routers, or their loss, are not known.
    """
    config: Any = network.config.get_text_config()
    if not hasattr(config, "output_router_logits"):
        if weight:
            raise UserError(
                f"--router_aux_loss_coef {weight:g}: {type(network).__name__} is no mixture of"
                " experts that returns what its routers say; leave the flag out"
            )
        return None
    if weight is None:
        weight = float(getattr(config, "router_aux_loss_coef", 0.0) or 0.0)
    if not weight:
        return None
    fn = getattr(sys.modules[type(network).__module__], "load_balancing_loss_func", None)
    # Image–text models have the numbers in the configuration of their language model alone.
    counts: list[Any] = [
        getattr(network, name, getattr(config, name, None))
        for name in ("num_experts", "num_experts_per_tok")
    ]
    if fn is None or not all(isinstance(count, int) for count in counts):
        raise UserError(
            f"--router_aux_loss_coef {weight:g}: the load-balancing loss of"
            f" {type(network).__name__} is not known here; --router_aux_loss_coef 0 trains without"
        )
    return RouterBalance(weight, int(counts[0]), int(counts[1]), fn)
