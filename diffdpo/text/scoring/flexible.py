"""Attention over rows that stand one behind the other and hold the prompt of a pair once, by
FlexAttention (Dong et al. 2024, arXiv 2412.05496): a row sees itself alone, and of a pair neither
completion sees the other (Wang and Hegde 2024, arXiv 2410.20305).

It takes the place of transformers' ``flex_attention`` and differs in what it does where no such
rows are read, as in generation: that is transformers' ``sdpa``.

Shapes: ``T`` tokens of one pass, ``H`` heads of ``D`` numbers.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from diffdpo.text.scoring.layout import PAD, SEGMENTS
from diffdpo.text.scoring.packed import check_known, in_one_type

FLEXIBLE = "diffdpo_flexible"
# Kinds of devices on which FlexAttention has a gradient. On others the same rows are read by sdpa,
# under a mask of all pairs of tokens.
KERNELS = {"cuda"}
# A pass is filled up to a multiple of its blocks, for shorter ones have a kernel of their own; and
# to three, for PyTorch compiles one block by itself, and takes two for a number of heads.
BLOCK, LEAST = 128, 3 * 128


def visible(segment_NT: Tensor) -> Tensor:
    """The attention mask ``(N, 1, T, T)``: True where the token of the third axis sees that of the
    fourth."""
    return sees(segment_NT[:, :, None], segment_NT[:, None, :]).tril()[:, None]


def sees(query: Tensor, key: Tensor) -> Tensor:
    """Whether tokens of the segments ``query`` see those of ``key`` that are not behind them: in
    their own segment, and in the prompt of their row."""
    # Padding is a segment too, so that every token sees one: a softmax over none would be NaN.
    return (query == key) | (query - query % SEGMENTS == key)


def filled_up(read_K1T: Tensor) -> Tensor:
    """What a pass reads, whose last kind is the segment, as long as FlexAttention has it."""
    tokens = read_K1T.shape[-1]
    more = max(LEAST, -(-tokens // BLOCK) * BLOCK) - tokens
    other, segment = functional.pad(read_K1T[:-1], (0, more)), read_K1T[-1:]
    return torch.cat([other, functional.pad(segment, (0, more), value=PAD)])


def mask_of(segment_1T: Tensor) -> Any:
    """The ``attention_mask`` of a model's forward for rows of these segments."""
    if segment_1T.device.type not in KERNELS:
        return visible(segment_1T)
    # A copy: of what is a part of another, the other's sizes would be compiled in.
    segment_T, tokens = segment_1T[0].int(), segment_1T.shape[1]

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(segment_T[query], segment_T[key]) & (query >= key)

    return compiled("create_block_mask")(seen, None, None, tokens, tokens, device=segment_T.device)


@functools.cache
def compiled(name: str) -> Any:
    """A function of PyTorch's FlexAttention, compiled once for all lengths."""
    return torch.compile(plain(name), dynamic=True)


def plain(name: str) -> Any:
    """The same as it is, for layers that are compiled as a whole."""
    from torch.nn.attention import flex_attention  # not in PyTorch before 2.5

    return getattr(flex_attention, name)


def flexible_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Outputs ``(1, T, H, D)`` of queries ``(1, H, T, D)`` and of keys and values, which may have
    fewer heads.

    Raises ValueError where the model asks for something that is not computed here.
    """
    check_known(more)
    if attention_mask is None or isinstance(attention_mask, Tensor):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **more
        )
    query, key, value = in_one_type(query, key, value)
    attend = plain if torch.compiler.is_compiling() else compiled
    output_1HTD: Tensor = attend("flex_attention")(
        query, key, value,
        block_mask=attention_mask, scale=scaling, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return output_1HTD.transpose(1, 2).contiguous(), None


AttentionInterface.register(FLEXIBLE, flexible_attention)
AttentionMaskInterface.register(FLEXIBLE, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
