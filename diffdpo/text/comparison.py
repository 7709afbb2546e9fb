"""Policy beside reference: what both write to the same prompts, its reward and its KL, and held-out
pairs.

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
    """What both models are asked: prompts, and pairs they have not seen; and the reward of
    texts."""

    reference: TokenScorer
    tokenizer: PreTrainedTokenizerBase
    task: TextTask
    prompts: list[Sequence[int]]
    pairs: TextRows
    reward: Callable[[Sequence[str]], np.ndarray]
    how: SampleSettings

    def asked(self) -> list[Sequence[int]]:
        """The prompt of every continuation; it is the cluster of the intervals."""
        return [prompt for prompt in self.prompts for _ in range(self.how.visits)]


@dataclass(frozen=True)
class Written:
    """What one model wrote: the tokens of the completions, the texts with their prompts, and the
    reward of each."""

    completions: list[list[int]]
    texts: list[str]
    rewards: np.ndarray


def write(held_out: HeldOut, scorer: TokenScorer, title: str = "") -> Written:
    """Continuations of all prompts, by the same random numbers for every model."""
    tokenizer: Any = held_out.tokenizer
    completions = sample(
        scorer.network, held_out.prompts, tokenizer.eos_token_id, held_out.how, title
    )
    wholes = [[*prompt, *ids] for prompt, ids in zip(held_out.asked(), completions, strict=True)]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in wholes]
    return Written(completions, texts, held_out.reward(texts))


def compare(
    held_out: HeldOut, policy: TokenScorer, before: Written, after: Written
) -> dict[str, Estimate]:
    """Every figure of ``after``, which the policy wrote, beside ``before``; intervals are resampled
    by prompt."""
    asked, seed, size = held_out.asked(), held_out.how.seed, held_out.how.batch_size
    ratio_N = log_ratios(held_out.task, policy, held_out.reference, asked, after.completions, size)
    margin_B = held_out_margins(
        held_out.task, policy, held_out.reference, held_out.pairs.items, size
    )
    pair_prompts = [tuple(item.prompt) for item in held_out.pairs.items]

    def mean(values: Sequence[float]) -> Estimate:
        return clustered_mean(values, asked, seed)

    return {
        "policy_reward": mean(after.rewards.tolist()),
        "reference_reward": mean(before.rewards.tolist()),
        "difference": mean((after.rewards - before.rewards).tolist()),
        "win_rate": win_rate(
            after.rewards, before.rewards, [str(prompt) for prompt in asked], seed
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
    parts = [slice(first, first + batch_size) for first in range(0, len(prompts), batch_size)]
    batches = [TextBatch(list(prompts[part]), list(completions[part])) for part in parts]
    return torch.cat([reward_of(task, policy, reference, batch) for batch in batches])


def held_out_margins(
    task: TextTask, policy: nn.Module, reference: nn.Module, items: list[TextItem], batch_size: int
) -> Tensor:
    """Implicit reward of the chosen completion minus that of the rejected one: ``(B,)``."""
    parts = [items[first : first + batch_size] for first in range(0, len(items), batch_size)]
    rewards = [reward_of(task, policy, reference, task.collate(part)).chunk(2) for part in parts]
    return torch.cat([chosen_B - rejected_B for chosen_B, rejected_B in rewards])


@torch.no_grad()
def reward_of(task: TextTask, policy: nn.Module, reference: nn.Module, batch: TextBatch) -> Tensor:
    """log π(y|x) − log π_ref(y|x) of every completion, before beta: ``(N,)`` (Rafailov et al. 2023,
    eq. 5)."""
    draw = task.draw(batch)
    return implicit_reward(
        task.score(policy, draw).score_N, task.score(reference, draw).score_N
    ).cpu()
