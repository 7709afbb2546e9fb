"""The network to train as one function: tokens in, log-probabilities of the scored tokens out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from diffdpo.errors import UserError

LOGITS_AT_ONCE = 1 << 26  # numbers, 256 MiB in float32


class TokenScorer(nn.Module):
    """A causal language model whose output head sees the scored positions alone.

    All of it is one forward pass, so that it works under DistributedDataParallel.
    """

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network
        self.scale, self.softcap = logit_rules(network)
        self.at_once = LOGITS_AT_ONCE

    def forward(self, input_ids_NT: Tensor, attention_NT: Tensor, position_P: Tensor, target_P: Tensor) -> Tensor:
        """Log-probabilities ``(P,)`` in float32 of the targets after the given positions."""
        body: Any = self.network.base_model
        hidden_NTC = body(input_ids=input_ids_NT, attention_mask=attention_NT, use_cache=False).last_hidden_state
        hidden_PC = hidden_NTC.flatten(0, 1)[position_P]
        chunk = max(1, self.at_once // self.network.config.get_text_config().vocab_size)
        if len(hidden_PC) <= chunk:
            return self.log_probabilities(hidden_PC, target_P)
        # Recomputed in the backward pass: the logits of one chunk are in memory at a time.
        pieces = zip(hidden_PC.split(chunk), target_P.split(chunk), strict=True)
        return torch.cat([checkpoint(self.log_probabilities, h, t, use_reentrant=False) for h, t in pieces])  # type: ignore[misc]

    def log_probabilities(self, hidden_PC: Tensor, target_P: Tensor) -> Tensor:
        """log p = logit − log Σ exp(logits), in float32 whatever precision the logits come in."""
        logits_PV = self.logits(hidden_PC)
        return logits_PV.gather(1, target_P[:, None]).squeeze(1) - logits_PV.logsumexp(dim=1)

    def logits(self, hidden: Tensor) -> Tensor:
        """The head with what some models do to its output."""
        head: Any = self.network.get_output_embeddings()
        logits = head(hidden.to(head.weight.dtype)).float()
        if self.scale != 1:
            logits = logits * self.scale
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits

    def disable_adapters(self) -> None:
        """Run the base weights alone."""
        self.network.disable_adapters()

    def enable_adapters(self) -> None:
        """Run the adapters again."""
        self.network.enable_adapters()

    def set_adapter(self, name: str) -> None:
        """Run this one of several adapters."""
        self.network.set_adapter(name)


def logit_rules(network: PreTrainedModel) -> tuple[float, float | None]:
    """What Cohere, Falcon-H1, Granite and others multiply their logits with, and the soft cap of Gemma 2."""
    config = network.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        value = getattr(config, name, None)
        scale = value if value is not None else scale
    if divisor := getattr(config, "logits_scaling", None):
        scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
    return scale, getattr(config, "final_logit_softcapping", None)


@torch.no_grad()
def prove_head(scorer: TokenScorer, name: str) -> None:
    """Raises UserError where the scorer's logits are not the model's own: its head does something unknown here."""
    network = scorer.network
    ids = torch.arange(3, device=next(network.parameters()).device)[None] % network.config.get_text_config().vocab_size
    own = network(input_ids=ids, use_cache=False).logits.float()
    body: Any = network.base_model
    ours = scorer.logits(body(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(own, ours, rtol=1e-3, atol=1e-3):
        raise UserError(f"--model_name_or_path {name}: its logits are not a plain function of its output head")
