"""Sampled continuations whose randomness is a function of (seed, prompt, visit), whichever model is
asked.

Shapes: ``N`` rows of one batch × ``T`` tokens; ``V`` tokens of the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from diffdpo.draws import Purpose, generator


@dataclass(frozen=True)
class SampleSettings:
    """How continuations are drawn: always from the model's own distribution, at temperature 1."""

    seed: int = 0
    visits: int = 1  # continuations a prompt
    max_new_tokens: int = 64
    batch_size: int = 64


def sample(
    network: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    end: int | None,
    how: SampleSettings,
    title: str = "",
) -> list[list[int]]:
    """``how.visits`` continuations of every prompt, those of one prompt in a row; each ends with
    ``end`` or is cut.

    Prompts of one length share a batch, so nothing is padded. ``title`` names the progress bar;
    without it there is none.
    """
    drawn: list[list[int]] = [[] for _ in range(len(prompts) * how.visits)]
    batches = equal_lengths(
        [prompt for prompt in prompts for _ in range(how.visits)], how.batch_size
    )
    for rows in tqdm(batches, desc=title, unit="batch", disable=not title):
        part = [(prompts[row // how.visits], row % how.visits) for row in rows]
        prompt_NT = torch.tensor([list(prompt) for prompt, _ in part], device=network.device)
        uniform_NT = np.stack(
            [uniforms(how.seed, prompt, visit, how.max_new_tokens) for prompt, visit in part]
        )
        token_NT = continue_batch(
            network, prompt_NT, torch.from_numpy(uniform_NT).to(network.device), end
        )
        for row, ids in zip(rows, token_NT.tolist(), strict=True):
            drawn[row] = ids[: ids.index(end) + 1] if end in ids else ids
    return drawn


def equal_lengths(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Row numbers in batches of at most ``size`` prompts of one length."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        by_length[len(prompt)].append(row)
    return [
        rows[first : first + size]
        for rows in by_length.values()
        for first in range(0, len(rows), size)
    ]


def uniforms(seed: int, prompt: Sequence[int], visit: int, count: int) -> np.ndarray:
    """One number in [0, 1) for every token to draw: ``(count,)``, the same for every model."""
    digest = hashlib.blake2b(np.asarray(prompt, dtype=np.int64).tobytes(), digest_size=8).digest()
    return generator(seed, Purpose.SAMPLE, int.from_bytes(digest, "little"), visit).random(count)


@torch.no_grad()
def continue_batch(
    network: PreTrainedModel, prompt_NT: Tensor, uniform_NT: Tensor, end: int | None
) -> Tensor:
    """Tokens drawn one after another until every row has ended: ``(N, T)``; what stands behind an
    end is noise."""
    cache: Any = None
    ended_N = torch.zeros(len(prompt_NT), dtype=torch.bool, device=prompt_NT.device)
    given_NT, tokens = prompt_NT, []
    for uniform_N in uniform_NT.T:
        found: Any = network(input_ids=given_NT, past_key_values=cache, use_cache=True)
        cache, token_N = found.past_key_values, draw(found.logits[:, -1], uniform_N)
        tokens.append(token_N)
        ended_N |= token_N == end
        if ended_N.all():
            break
        given_NT = token_N[:, None]
    return torch.stack(tokens, dim=1)


def draw(logits_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """Tokens ``(N,)`` by inversion: the first whose cumulative probability exceeds the number
    drawn."""
    cumulative_NV = logits_NV.double().softmax(dim=1).cumsum(dim=1)
    # Scaled by the last, which rounding may leave beside 1.
    found = torch.searchsorted(
        cumulative_NV, uniform_N[:, None] * cumulative_NV[:, -1:], right=True
    )
    return found.squeeze(1).clamp(max=logits_NV.shape[1] - 1)
