"""Positions of tokens in a row that holds both completions of a pair, where pictures have positions
of their own.

Shapes: ``N`` rows × ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffdpo.text.scoring.layout import PROMPT


def shared_positions(
    body: Any,
    token_NT: Tensor,
    segment_NT: Tensor,
    position_NT: Tensor,
    pictures: Mapping[str, Tensor],
) -> Tensor:
    """The positions that the network is told: ``(N, T)``, or ``(3, N, T)`` where the tokens of a
    picture have a time, a height and a width (M-RoPE, Wang et al. 2024, arXiv 2409.12191)."""
    if not pictures or not hasattr(body, "get_rope_index"):
        return position_NT
    prompt_NT = segment_NT == PROMPT
    told = {name: value for name, value in pictures.items() if name != "pixel_values"}
    # Of the prompts alone: both completions count on from where the prompt ends. How far that is
    # from its number of tokens is the second value.
    position_3NT, ahead_N1 = body.get_rope_index(token_NT, attention_mask=prompt_NT, **told)
    return torch.where(prompt_NT, position_3NT, position_NT + ahead_N1)
