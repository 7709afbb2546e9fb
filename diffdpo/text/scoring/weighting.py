"""Weights of tokens and of pairs: LD-DPO's of the tail of a longer completion, WPO's of how likely
the policy is to write a completion itself.

Shapes: ``N`` completions, chosen first; ``P`` scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffdpo.text.scoring.logprob import LOG_COLLISION, LOGP


def tail_weights(sizes: Sequence[int], completions: int, alpha: float) -> Tensor:
    """1 for the tokens that both completions of a pair are long enough to have, ``alpha`` for those
    beyond the shorter one: ``(P,)`` (Liu et al. 2024, LD-DPO, eq. 8).

    ``sizes`` are the numbers of scored tokens of the completions, then of prompts, which count 1.
    """
    half = completions // 2
    parts = []
    for index, size in enumerate(sizes):
        shared = size
        if index < completions:
            shared = min(size, sizes[index + half if index < half else index - half])
        parts += [torch.ones(shared), torch.full((size - shared,), alpha)]
    return torch.cat(parts)


def on_policy_weights(column_PK: Tensor, sizes: Sequence[int], completions: int) -> Tensor:
    """exp of the mean over tokens of log p(y_t) − log Σ_v p(v)², without gradient: ``(N,)`` (Zhou
    et al. 2024, WPO, eq. 2).

    It is 1 for a completion of tokens as likely as the policy's own are on average.
    """
    aligned_P = (column_PK[:, LOGP] - column_PK[:, LOG_COLLISION]).detach()
    means = [tokens.sum() / max(1, len(tokens)) for tokens in aligned_P.split(list(sizes))]
    return torch.stack(means[:completions]).exp()
