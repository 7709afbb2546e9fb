"""Lets a network read rows that stand one behind the other, where its scores stay the same."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from diffdpo.errors import UserError
from diffdpo.text.scoring.head import precision_of
from diffdpo.text.scoring.packed import PACKED
from diffdpo.text.scoring.scorer import TokenScorer, tried
from diffdpo.text.vision.models import reads_pictures

FLAG = "--padding_free"
KERNELS = ("sdpa", PACKED, "flash_attention_2", "flash_attention_3")


@torch.no_grad()
def pack_rows(scorer: TokenScorer, dtype: torch.dtype) -> None:
    """Make the scorer read packed rows, under the autocast of ``dtype`` if that is not float32.

    Raises UserError where the network's attention is another than PyTorch's, where the device has
    no kernel, and where a pair scores otherwise than in rows of its own.
    """
    network, device = scorer.network, next(scorer.parameters()).device
    check_kernel(network, device, dtype)
    scores, before = [], (scorer.can_share, network.training)
    scorer.can_share = False
    network.eval()
    try:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores.append(tried(scorer, (5, 4, 3)))
            if network.config._attn_implementation == "sdpa":
                network.set_attn_implementation(PACKED)
            scorer.packed = True
            scores.append(tried(scorer, (5, 4, 3)))
    except Exception as error:  # of every kind: what a network or an older PyTorch makes of it
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{FLAG}: cannot be used with this model here ({reason})") from error
    scorer.can_share, training = before
    network.train(training)
    apart, packed = scores
    eps = max(precision_of(network), torch.finfo(dtype).eps)
    if not torch.allclose(apart, packed, rtol=max(1e-4, 8 * eps), atol=max(1e-4, 8 * eps)):
        raise UserError(
            f"{FLAG}: {type(network).__name__} scores rows that are packed otherwise than rows of"
            " their own; leave it out"
        )


def check_kernel(network: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> None:
    """Raises UserError where no attention of the network on this device reads packed rows."""
    attention = network.config._attn_implementation
    if attention not in KERNELS:
        raise UserError(
            f"{FLAG}: {attention} attention does not know where a row ends; take"
            " --attn_implementation sdpa or flash_attention_2"
        )
    if reads_pictures(network):
        raise UserError(
            f"{FLAG}: {type(network).__name__} reads pictures, whose rows are not packed"
        )
    if device.type == "cuda" and dtype == torch.float32:
        raise UserError(
            f"{FLAG}: a GPU's attention without padding is one of half precision; add"
            " --mixed_precision bf16, or leave it out"
        )
