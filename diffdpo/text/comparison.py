"""Compares a policy with its reference: the reward of their continuations of the same prompts, the
KL between them, and the accuracy on held-out pairs.

Shapes: ``N`` completions, ``B`` pairs. Log-ratios are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from diffdpo.metrics.intervals import Estimate, clustered_mean, clustered_share, win_rate
from diffdpo.preference import accuracy, implicit_reward
from diffdpo.text.batch import TextBatch
from diffdpo.text.generate import SampleSettings, sample
from diffdpo.text.rows import TextItem, TextRows
from diffdpo.text.scorer import TokenScorer
from diffdpo.text.task import TextTask


@dataclass(frozen=True)
class HeldOut:
    """What two models are compared on: prompts to continue, pairs that neither was trained on, and
    the reward that judges texts."""

    reference: TokenScorer
    tokenizer: PreTrainedTokenizerBase
    task: TextTask
    prompts: list[Sequence[int]]
    pairs: TextRows
    reward: Callable[[Sequence[str]], np.ndarray]
    settings: SampleSettings

    def repeated_prompts(self) -> list[Sequence[int]]:
        """The prompt of every continuation, in the order of ``sample``."""
        return [prompt for prompt in self.prompts for _ in range(self.settings.visits)]


@dataclass(frozen=True)
class Written:
    """The continuations that one model wrote, with their rewards."""

    completions: list[list[int]]  # tokens, without the prompt
    texts: list[str]  # with the prompt before each
    rewards: np.ndarray


def write(held_out: HeldOut, scorer: TokenScorer, title: str = "") -> Written:
    """Let one model continue all prompts; every model gets the same random numbers."""
    tokenizer: Any = held_out.tokenizer
    completions = sample(
        scorer.network, held_out.prompts, tokenizer.eos_token_id, held_out.settings, title
    )
    prompts = held_out.repeated_prompts()
    wholes = [[*prompt, *ids] for prompt, ids in zip(prompts, completions, strict=True)]
    # Decoded as one sequence: a character may be split between the prompt and its continuation.
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in wholes]
    return Written(completions, texts, held_out.reward(texts))


def compare(
    held_out: HeldOut, policy: TokenScorer, before: Written, after: Written
) -> dict[str, Estimate]:
    """The figures of ``after``, by the policy, and ``before``, by the reference, with intervals."""
    settings, prompts = held_out.settings, held_out.repeated_prompts()
    seed, size = settings.seed, settings.batch_size
    ratio_N = log_ratios(
        held_out.task, policy, held_out.reference, prompts, after.completions, size
    )
    margin_B = held_out_margins(
        held_out.task, policy, held_out.reference, held_out.pairs.items, size
    )
    pair_prompts = [tuple(item.prompt) for item in held_out.pairs.items]

    # Whole prompts are resampled: continuations of one prompt are not independent.
    def mean(values: Sequence[float]) -> Estimate:
        return clustered_mean(values, prompts, seed)

    return {
        "policy_reward": mean(after.rewards.tolist()),
        "reference_reward": mean(before.rewards.tolist()),
        "difference": mean((after.rewards - before.rewards).tolist()),
        "win_rate": win_rate(
            after.rewards, before.rewards, [str(prompt) for prompt in prompts], seed
        ),
        "kl": mean(ratio_N.tolist()),
        "policy_tokens": mean([len(ids) for ids in after.completions]),
        "reference_tokens": mean([len(ids) for ids in before.completions]),
        "implicit_accuracy": clustered_share(accuracy(margin_B).tolist(), pair_prompts, seed),
    }


def log_ratios(
    task: TextTask,
    policy: nn.Module,
    reference: nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    batch_size: int,
) -> Tensor:
    """log π(y|x) − log π_ref(y|x): ``(N,)``. Its mean over y ~ π estimates the sequence KL(π ‖
    π_ref) without bias."""
    chunks = [slice(first, first + batch_size) for first in range(0, len(prompts), batch_size)]
    batches = [TextBatch(list(prompts[chunk]), list(completions[chunk])) for chunk in chunks]
    return torch.cat([reward_of(task, policy, reference, batch) for batch in batches])


def held_out_margins(
    task: TextTask, policy: nn.Module, reference: nn.Module, items: list[TextItem], batch_size: int
) -> Tensor:
    """Implicit reward of the chosen completion minus that of the rejected one: ``(B,)``."""
    chunks = [items[first : first + batch_size] for first in range(0, len(items), batch_size)]
    rewards = [reward_of(task, policy, reference, task.collate(chunk)).chunk(2) for chunk in chunks]
    return torch.cat([chosen_B - rejected_B for chosen_B, rejected_B in rewards])


@torch.no_grad()
def reward_of(task: TextTask, policy: nn.Module, reference: nn.Module, batch: TextBatch) -> Tensor:
    """log π(y|x) − log π_ref(y|x) of every completion, before beta: ``(N,)`` (Rafailov et al. 2023,
    eq. 5)."""
    draw = task.draw(batch)
    return implicit_reward(
        task.score(policy, draw).score_N, task.score(reference, draw).score_N
    ).cpu()
