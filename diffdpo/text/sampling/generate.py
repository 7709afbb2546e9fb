"""Samples continuations. Their random numbers are a function of (seed, prompt, visit), the prompt
with its pictures, so that two models continue a prompt with the same ones.

Shapes: ``N`` rows of one batch × ``T`` tokens; ``V`` tokens of the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffdpo.batched import batched
from diffdpo.data.text.messages import Text
from diffdpo.draws import Purpose, generator
from diffdpo.engine.failures import machine_memory
from diffdpo.engine.transfer import on_device
from diffdpo.errors import UserError
from diffdpo.text.tokens.chat import turn_end
from diffdpo.text.vision.pictures import Look, together

Ends = tuple[int, ...]  # tokens of which each ends a continuation


@dataclass(frozen=True)
class SampleSettings:
    """How continuations are drawn; always from the model's own distribution, at temperature 1."""

    seed: int = 0
    visits: int = 1  # continuations a prompt
    max_new_tokens: int = 64
    batch_size: int = 64
    vocabulary: int | None = None  # a model may have more tokens than its tokenizer: padding
    purpose: Purpose = Purpose.SAMPLE  # what the numbers are drawn for


def ends_of(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Text] = ()
) -> Ends:
    """The tokens that end a continuation of ``prompts``: of conversations the mark that the chat
    template writes behind an answer, the tokenizer's EOS, and those that the model's generation
    configuration names. Without the mark a model of chats would go on with the user's next turn."""
    chats = any(not isinstance(prompt, str) for prompt in prompts)
    told: Any = getattr(getattr(network, "generation_config", None), "eos_token_id", None)
    found = [turn_end(tokenizer) if chats else None, tokenizer.eos_token_id]
    found += told if isinstance(told, list) else [told]
    return tuple(dict.fromkeys(token for token in found if token is not None))


def check_sampling(prompts: int, settings: SampleSettings) -> None:
    """Raise UserError where the random numbers of a batch, or the tokens of all continuations, do
    not fit into this machine's memory."""
    rows = prompts * settings.visits
    batch = 8 * min(rows, settings.batch_size) * settings.max_new_tokens
    needed, there = 64 * rows + batch, machine_memory()
    if needed > there:
        raise UserError(
            f"{rows:,} continuations of up to {settings.max_new_tokens:,} tokens need"
            f" {needed / 2**30:,.0f} GiB of memory and more, this machine has {there / 2**30:.0f};"
            " take fewer --num_prompts, --samples_per_prompt or --max_new_tokens"
        )


def sample(
    network: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    ends: Ends,
    settings: SampleSettings,
    title: str = "",
    looks: Sequence[Look | None] = (),
) -> list[list[int]]:
    """``settings.visits`` continuations of every prompt, those of one prompt side by side; each
    ends with one of the tokens ``ends`` or after ``settings.max_new_tokens``.

    ``title`` names the progress bar; without it there is none. ``looks`` are the pictures of every
    prompt, where any has some.
    """
    visits = range(settings.visits)
    asked = [(prompt, visit) for prompt in prompts for visit in visits]
    return continued(network, asked, ends, settings, title, [one for one in looks for _ in visits])


def continued(
    network: PreTrainedModel,
    asked: Sequence[tuple[Sequence[int], int]],
    ends: Ends,
    settings: SampleSettings,
    title: str = "",
    looks: Sequence[Look | None] = (),
) -> list[list[int]]:
    """A continuation for each prompt and visit that is asked for, as ``sample`` draws it."""
    continuations: list[list[int]] = [[] for _ in asked]
    looks = looks or [None] * len(asked)
    batches = equal_lengths([prompt for prompt, _ in asked], settings.batch_size)
    for rows in tqdm(batches, desc=title, unit="batch", disable=not title):
        chunk = [(*asked[row], looks[row]) for row in rows]
        prompt_NT = torch.tensor([list(prompt) for prompt, *_ in chunk], device=network.device)
        count, purpose = settings.max_new_tokens, settings.purpose
        uniform_NT = np.stack(
            [
                uniforms(settings.seed, prompt, visit, count, purpose, look.digest if look else b"")
                for prompt, visit, look in chunk
            ]
        )
        pictures = together([look.read() if look else None for *_, look in chunk])
        pictures = on_device(pictures, network.device)
        token_NT = continue_batch(
            network,
            prompt_NT,
            torch.from_numpy(uniform_NT).to(network.device),
            ends,
            settings.vocabulary,
            pictures.inputs(range(len(chunk)), prompt_NT) if pictures else {},
        )
        for row, ids in zip(rows, token_NT.tolist(), strict=True):
            last = next((place for place, token in enumerate(ids) if token in ends), len(ids))
            continuations[row] = ids[: last + 1]
    return continuations


def equal_lengths(prompts: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Row numbers in batches of at most ``size`` prompts of one length.

    Nothing is padded that way, so neither positions nor masks differ from those of a single row.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        by_length[len(prompt)].append(row)
    return [batch for rows in by_length.values() for batch in batched(rows, size)]


def uniforms(
    seed: int,
    prompt: Sequence[int],
    visit: int,
    count: int,
    purpose: Purpose = Purpose.SAMPLE,
    look: bytes = b"",
) -> np.ndarray:
    """One number in [0, 1) for every token to draw: ``(count,)``; ``look`` is a digest of the
    pictures in the prompt."""
    # Keyed by what is read, not its row: which other prompts are sampled changes nothing.
    content = np.asarray(prompt, dtype=np.int64).tobytes() + look
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return generator(seed, purpose, int.from_bytes(digest, "little"), visit).random(count)


@torch.no_grad()
def continue_batch(
    network: PreTrainedModel,
    prompt_NT: Tensor,
    uniform_NT: Tensor,
    ends: Ends,
    vocabulary: int | None,
    pictures: Mapping[str, Tensor],
) -> Tensor:
    """Tokens drawn one after another until every row has ended: ``(N, T)``. Rows that end early go
    on; the caller cuts them after their end. No token from ``vocabulary`` on is drawn. ``pictures``
    are the inputs of the network beside the prompts."""
    cache: Any = None
    forget_positions(network)
    ended_N = torch.zeros(len(prompt_NT), dtype=torch.bool, device=prompt_NT.device)
    input_NT, tokens = prompt_NT, []
    for uniform_N in uniform_NT.T:
        output: Any = network(input_ids=input_NT, past_key_values=cache, use_cache=True, **pictures)
        cache, token_N = output.past_key_values, draw(output.logits[:, -1, :vocabulary], uniform_N)
        tokens.append(token_N)
        for end in ends:
            ended_N |= token_N == end
        if ended_N.all():
            break
        input_NT, pictures = token_N[:, None], {}  # the cache holds all that was read before
    return torch.stack(tokens, dim=1)


def forget_positions(network: PreTrainedModel) -> None:
    """Let an image–text model forget by how much positions ran ahead of the tokens of the pictures
    that it has read last: it would add that to prompts without pictures as well."""
    body: Any = network.base_model
    if hasattr(body, "rope_deltas"):
        body.rope_deltas = None


def draw(logits_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """Tokens ``(N,)`` by inversion: the first whose cumulative probability exceeds the number
    drawn."""
    # In double precision: the rounding of a float32 sum over a large vocabulary is more than the
    # probability of its rarer tokens.
    cumulative_NV = logits_NV.double().softmax(dim=1).cumsum(dim=1)
    # Scaled by the last, which rounding may leave beside 1. Searched from the right, so that a
    # number on the edge, such as 0, never takes a token of probability 0.
    token_N1 = torch.searchsorted(
        cumulative_NV, uniform_N[:, None] * cumulative_NV[:, -1:], right=True
    )
    # The product may round up to the last sum itself, and no token stands behind that.
    return token_N1.squeeze(1).clamp(max=logits_NV.shape[1] - 1)
