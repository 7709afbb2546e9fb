"""Attention over rows that stand one after the other in a single one, without padding: every row
sees itself alone.

It is one more implementation beside those of transformers. Models hand it the ends of the rows
under the names that FlashAttention's have there; without them it is transformers' ``sdpa``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

PACKED = "diffdpo_packed"
# What some models ask of their attention and neither kernel here computes.
UNKNOWN = ("softcap", "s_aux", "position_bias", "batches")


def packed_arguments(end_N: Tensor, sizes: list[int], attention: str) -> dict[str, Any]:
    """The arguments of a model's forward for rows that end at ``end_N``, ``sizes`` tokens long, by
    the name of its attention."""
    start_N1 = functional.pad(end_N, (1, 0)).to(torch.int32)
    longest = max(sizes)
    # A mask of four dimensions is handed on as it is. Without one, transformers would look for rows
    # in the positions, for which the host waits for the device. FlashAttention's takes none.
    unread = torch.ones((), dtype=torch.bool, device=end_N.device).expand(1, 1, 1, 1)
    return {
        "attention_mask": unread if attention == PACKED else None,
        "cu_seq_lens_q": start_N1,
        "cu_seq_lens_k": start_N1,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Outputs ``(1, T, H, D)`` of queries ``(1, H, T, D)`` and of keys and values, which may have
    fewer heads.

    Raises ValueError where the model asks for something that is not computed here.
    """
    start_N1: Tensor | None = more.get("cu_seq_lens_q")
    if start_N1 is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **more
        )
    check_known(more if len(query) == 1 else more | {"batches": len(query)})
    both = [one[0].transpose(0, 1) for one in (query, key, value)]
    window = more.get("sliding_window")
    if query.device.type == "cuda":
        output_THD = by_kernel(both, start_N1, more["max_length_q"], scaling, window)
    else:
        output_THD = row_by_row(both, start_N1.tolist(), scaling, window)
    return output_THD[None], None


def check_known(more: Mapping[str, Any]) -> None:
    """Raises ValueError where a model's attention is asked for what is not computed here."""
    if asked := [name for name in UNKNOWN if more.get(name) is not None]:
        raise ValueError(f"packed attention knows no {asked[0]}")


def in_one_type(*several: Tensor) -> list[Tensor]:
    """Queries, keys and values in one type, half precision under autocast: positions turn the first
    two in float32, and kernels of other makers are no operations that autocast knows."""
    device = several[0].device.type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return [one.to(half or several[-1].dtype) for one in several]


def by_kernel(
    both: list[Tensor], start_N1: Tensor, longest: int, scaling: float | None, window: int | None
) -> Tensor:
    """FlashAttention for rows of unlike length, which PyTorch brings along for half precision."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = in_one_type(*both)
    if groups := query.shape[1] // key.shape[1] - 1:
        key, value = (one.repeat_interleave(groups + 1, dim=1) for one in (key, value))
    before = -1 if window is None else window - 1
    attend: Any = varlen_attn
    output: Tensor = attend(
        query, key, value, start_N1, start_N1, longest, longest,
        scale=scaling, window_size=(before, 0),
    )  # fmt: skip
    return output


def row_by_row(
    both: list[Tensor], starts: list[int], scaling: float | None, window: int | None
) -> Tensor:
    """PyTorch's attention for one row after another."""
    groups = both[0].shape[1] != both[1].shape[1]
    outputs = []
    for first, end in itertools.pairwise(starts):
        query, key, value = (one[first:end].transpose(0, 1)[None] for one in both)
        mask = None
        if window is not None and window < end - first:
            mask = torch.ones(end - first, end - first, dtype=torch.bool).tril().triu(1 - window)
        outputs.append(
            functional.scaled_dot_product_attention(
                query, key, value, mask, is_causal=mask is None, scale=scaling, enable_gqa=groups
            )
        )
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
