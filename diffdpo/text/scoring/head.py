"""The output head: its logits, in float32 from products in half precision where the device has
these, and what some models do with them behind it."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Kinds of devices whose products of half-precision matrices are handed over as they are summed up,
# in float32. Rounded to bfloat16, logits between 8 and 16 are 0.06 apart: log-probabilities of
# likely words were off by 0.01 to 0.02 nats (root mean square, 32,000 words), in float32 by 1e-6.
FLOAT_SUMS = {"cuda"}


def plain_logits(head: Any, hidden: Tensor) -> Tensor:
    """The product of hidden states ``(…, C)`` with a head, ``(…, V)``."""
    if half := half_type(head, hidden):
        logits: Tensor = FloatLogits.apply(hidden.flatten(0, -2), head.weight, half)
        return logits.view(*hidden.shape[:-1], -1)
    # Under autocast the body may give another type than the weights of the head have.
    made: Tensor = head(hidden.to(head.weight.dtype))
    return made


def half_type(head: nn.Module, hidden: Tensor) -> torch.dtype | None:
    """The type in which a head's product is to be computed, where ``FloatLogits`` does it; None
    where the head has to do it itself: one in float32, with a bias, or that is more than its
    weight."""
    device = hidden.device.type
    if device not in FLOAT_SUMS or type(head) is not nn.Linear or head.bias is not None:
        return None
    if head._forward_hooks or head._forward_pre_hooks:  # as of weights that lie on other devices
        return None
    autocast = torch.is_autocast_enabled(device)
    computed = torch.get_autocast_dtype(device) if autocast else head.weight.dtype
    half = computed in (torch.float16, torch.bfloat16)
    return computed if half and has_product(hidden.device, computed) else None


@functools.cache
def has_product(device: torch.device, half: torch.dtype) -> bool:
    """Whether ``product`` is there: not in PyTorch before 2.8, nor for every maker's GPUs."""
    small = torch.ones(8, 8, dtype=half, device=device)
    try:
        return product(small, small).dtype == torch.float32
    except (RuntimeError, TypeError):  # no such kernel; no such argument
        return False


class FloatLogits(torch.autograd.Function):
    """Maps hidden states ``(P, C)`` and the weight ``(V, C)`` of a head to logits ``(P, V)`` in
    float32, by products in ``half``.

    The weight's gradient leaves in float32 too: over several chunks of positions it is added up
    without being rounded in between.
    """

    @staticmethod
    def forward(ctx: Any, hidden_PC: Tensor, weight_VC: Tensor, half: torch.dtype) -> Tensor:
        # As they came, not in half precision: of the weight that would be a copy for each chunk.
        ctx.save_for_backward(hidden_PC, weight_VC)
        ctx.half = half
        return product(hidden_PC.to(half), weight_VC.to(half).T)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_PC, weight_VC = ctx.saved_tensors
        grad_PV = grads[0].to(ctx.half)
        of_hidden = of_weight = None
        if ctx.needs_input_grad[0]:
            of_hidden = product(grad_PV, weight_VC.to(ctx.half)).to(hidden_PC.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = product(grad_PV.T, hidden_PC.to(ctx.half)).to(weight_VC.dtype)
        return of_hidden, of_weight, None


def product(left: Tensor, right: Tensor) -> Tensor:
    """A matrix product of half precision, as it is summed up in float32."""
    with torch.autocast(left.device.type, enabled=False):
        if left.device.type == "cuda":
            summed: Tensor = torch.mm(left, right, out_dtype=torch.float32)
            return summed
        return left.float() @ right.float()


def logit_rules(network: PreTrainedModel) -> tuple[float, float | None]:
    """The factor of the logits, 1 unless the model has one as Cohere, Falcon-H1 and Granite do, and
    the soft cap, None unless it has one as Gemma 2 does."""
    # Read from the configuration, since models apply both in their own forward, behind the head.
    # One that is missing here is caught by ``prove_head``.
    config = network.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        value = getattr(config, name, None)
        scale = value if value is not None else scale
    # Granite divides by this number; HyperCLOVA X multiplies with one of the same name.
    if divisor := getattr(config, "logits_scaling", None):
        scale = divisor if config.model_type == "hyperclovax" else 1 / divisor
    return scale, getattr(config, "final_logit_softcapping", None)


def precision_of(network: PreTrainedModel) -> float:
    """The distance of 1 to the next number in the type that a network computes in."""
    return torch.finfo(network.get_output_embeddings().weight.dtype).eps  # type: ignore[arg-type]
