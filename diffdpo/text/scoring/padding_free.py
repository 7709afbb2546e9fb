"""Lets a network read rows that stand one behind the other, where its scores stay the same."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diffdpo.engine.console import say
from diffdpo.errors import UserError
from diffdpo.text.scoring.flexible import FLEXIBLE, KERNELS
from diffdpo.text.scoring.head import precision_of
from diffdpo.text.scoring.packed import PACKED
from diffdpo.text.scoring.scorer import TokenScorer, tried
from diffdpo.text.scoring.sharing import sees_a_part
from diffdpo.text.settings import FLEX
from diffdpo.text.vision.models import reads_pictures

FLAG = "--padding_free"
ATTENTIONS = ("sdpa", PACKED, FLEXIBLE, "flash_attention_2", "flash_attention_3")
TRIED = (5, 4, 3), (2, 3, 6)  # tokens of two made-up pairs


def make_flexible(network: PreTrainedModel) -> None:
    """Put the attention of ``flexible`` in the place of transformers' FlexAttention, where a
    network was loaded with that.

    Raises UserError where rows cannot be packed for it.
    """
    if network.config._attn_implementation != FLEX:
        return
    if sees_a_part(network):
        raise UserError(
            f"--attn_implementation {FLEX}: {type(network).__name__} has layers that see a part of"
            " the tokens, and its mask is one for all; take sdpa"
        )
    network.set_attn_implementation(FLEXIBLE)


def reads_packed(network: PreTrainedModel, padding_free: bool) -> bool:
    """Whether rows are to be packed: where a flag asks for it, and always under FlexAttention."""
    return padding_free or network.config._attn_implementation == FLEXIBLE


@torch.no_grad()
def pack_rows(scorer: TokenScorer, dtype: torch.dtype) -> None:
    """Make the scorer read packed rows, under the autocast of ``dtype`` if that is not float32.

    Raises UserError where the network's attention is another than PyTorch's, where the device has
    no kernel, and where pairs score otherwise than in rows of their own.
    """
    network, device = scorer.network, next(scorer.parameters()).device
    flag = check_attention(network, device, dtype)
    scores, before = [], (scorer.can_share, network.training)
    scorer.can_share = False
    network.eval()
    try:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            scores.append(tried(scorer, *TRIED))
            if network.config._attn_implementation == "sdpa":
                network.set_attn_implementation(PACKED)
            scorer.packed, scorer.can_share = True, before[0]
            scores.append(tried_with_gradient(scorer))
    except Exception as error:  # of every kind: what a network or an older PyTorch makes of it
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{flag}: cannot be used with this model here ({reason})") from error
    network.train(before[1])
    apart, packed = scores
    eps = max(precision_of(network), torch.finfo(dtype).eps)
    if not torch.allclose(apart, packed, rtol=max(1e-4, 8 * eps), atol=max(1e-4, 8 * eps)):
        raise UserError(
            f"{flag}: {type(network).__name__} scores rows that are packed otherwise than rows of"
            " their own; leave it out"
        )


def tried_with_gradient(scorer: TokenScorer) -> Tensor:
    """Log-probabilities of the made-up pairs, once their gradient could be computed as well: a
    kernel that the device does not have would else end the first step."""
    with torch.enable_grad():
        score_PK = tried(scorer, *TRIED)
        if score_PK.requires_grad:
            score_PK.sum().backward()
    scorer.zero_grad()
    return score_PK[:, :1].detach()


def check_attention(network: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> str:
    """The flag that packs the rows. Raises UserError where no attention of the network on this
    device reads packed rows."""
    attention = network.config._attn_implementation
    flag = f"--attn_implementation {FLEX}" if attention == FLEXIBLE else FLAG
    if attention not in ATTENTIONS:
        raise UserError(
            f"{flag}: {attention} attention does not know where a row ends; take"
            " --attn_implementation sdpa, flash_attention_2 or flex_attention"
        )
    if reads_pictures(network):
        raise UserError(
            f"{flag}: {type(network).__name__} reads pictures, whose rows are not packed"
        )
    if attention == FLEXIBLE:
        if device.type not in KERNELS:
            say("attention    by sdpa under a mask: FlexAttention has no gradient on this device")
    elif device.type == "cuda" and dtype == torch.float32:
        raise UserError(
            f"{flag}: a GPU's attention without padding is one of half precision; add"
            " --mixed_precision bf16, or leave it out"
        )
    return flag
