"""Compares a policy with its reference: the reward of their continuations of the same prompts, the
KL between them, and the implicit accuracy on pairs.

Shapes: ``N`` completions, ``B`` pairs. Log-ratios are in nats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from diffdpo.batched import batched
from diffdpo.data.text.messages import Text
from diffdpo.data.text.schema import common_length
from diffdpo.engine.console import say
from diffdpo.engine.trained_on import Overlap, known, overlap
from diffdpo.errors import short
from diffdpo.metrics.formats import Instruction
from diffdpo.metrics.intervals import Estimate, clustered_mean, clustered_share
from diffdpo.metrics.judged import scores_of
from diffdpo.metrics.text_reward import TextReward
from diffdpo.preference import accuracy, implicit_reward
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.sampling.generate import SampleSettings, ends_of, sample
from diffdpo.text.sampling.served import ServedModel
from diffdpo.text.scoring.batch import TextBatch
from diffdpo.text.scoring.scorer import TokenScorer
from diffdpo.text.task import TextTask
from diffdpo.text.tokens.row_reader import TextItem
from diffdpo.text.vision.pictures import Look, together
from diffdpo.text.vision.sight import Sight


@dataclass(frozen=True)
class Comparison:
    """What two models are compared on: prompts to continue, pairs, and the rewards that judge
    texts, ``batch`` of them at once. ``chats`` are the prompts as the data have them, text or
    conversations, ``looks`` the pictures in them, if any has some."""

    reference: TokenScorer
    tokenizer: PreTrainedTokenizerBase
    task: TextTask
    prompts: list[Sequence[int]]
    chats: list[Text]
    pairs: TextRows
    rewards: dict[str, TextReward]
    batch: int
    settings: SampleSettings
    instructions: list[list[Instruction]] = field(default_factory=list)  # of each prompt, if any
    service: Mapping[str, ServedModel] = field(default_factory=dict)  # that writes, by label
    looks: Sequence[Look | None] = ()
    sight: Sight | None = None  # what reads the pictures of prompts and pairs, if any has some

    def repeated_prompts(self) -> list[Sequence[int]]:
        """The prompt of every continuation, in the order of ``sample``."""
        return [prompt for prompt in self.prompts for _ in range(self.settings.visits)]

    def repeated_looks(self) -> list[Look | None]:
        """The pictures of the prompt of every continuation."""
        looks = self.looks or [None] * len(self.prompts)
        return [look for look in looks for _ in range(self.settings.visits)]

    def clusters(self) -> list[str]:
        """A name for the prompt of every continuation, pictures included, the same for the same
        one."""
        both = zip(self.repeated_prompts(), self.repeated_looks(), strict=True)
        return [named(prompt, look.digest if look else b"") for prompt, look in both]

    def prompts_for(self, reward: TextReward, heads: Sequence[str]) -> list[Any]:
        """The prompt of every continuation as a reward reads it; ``heads`` are they as texts."""
        repeated = [chat for chat in self.chats for _ in range(self.settings.visits)]
        both = zip(repeated, heads, strict=True)
        return [
            head if isinstance(chat, str) or not reward.reads_chats else chat for chat, head in both
        ]


@dataclass(frozen=True)
class Written:
    """The continuations that one model wrote, with their rewards."""

    completions: list[list[int]] | None  # without the prompt; None where not told
    heads: list[str]  # the prompt of each
    tails: list[str]  # what follows it
    rewards: dict[str, np.ndarray]  # by the name of the reward

    @property
    def texts(self) -> list[str]:
        """Prompts with what follows them."""
        return [head + tail for head, tail in zip(self.heads, self.tails, strict=True)]


def write(compared: Comparison, scorer: TokenScorer, title: str = "", label: str = "") -> Written:
    """Let one model continue all prompts; every model gets the same random numbers. A service does
    it where there is one of this ``label``.

    Raises UserError where the reward fails on a text or gives no finite number for it.
    """
    tokenizer, prompts = compared.tokenizer, compared.repeated_prompts()
    ends = ends_of(compared.reference.network, tokenizer, compared.chats)
    completions: list[list[int]] | None
    if (service := compared.service.get(label)) is not None:
        told = service.continued(compared.prompts, ends, compared.settings, title)
        tokens = [one.tokens for one in told if one.tokens is not None]
        completions = tokens if len(tokens) == len(told) else None
        tails = [one.text for one in told]
    else:
        completions = sample(
            scorer.network, compared.prompts, ends, compared.settings, title, compared.looks
        )
    if completions is None:
        heads = as_texts(tokenizer, prompts)
    else:
        heads, tails = taken_apart(tokenizer, prompts, completions)
    texts = [head + tail for head, tail in zip(heads, tails, strict=True)]
    names = [f"text {row}, {short(text, 60)!r}" for row, text in enumerate(texts)]

    def scores(name: str, reward: TextReward) -> np.ndarray:
        given, label = compared.prompts_for(reward, heads), title and f"{name} judges"
        if cut := reward.too_long(given, tails):
            say(f"note         {name} cuts {cut:,} of {len(tails):,} texts: too long")
        return scores_of(name, reward, names, given, tails, compared.batch, label or None)

    rewards = {name: scores(name, reward) for name, reward in compared.rewards.items()}
    return Written(completions, heads, tails, rewards)


def taken_apart(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> tuple[list[str], list[str]]:
    """Prompts and their completions as texts, which together are the whole."""
    # Decoded as one sequence: a character may be split between the prompt and its continuation.
    pairs = zip(prompts, completions, strict=True)
    texts = as_texts(tokenizer, ([*prompt, *ids] for prompt, ids in pairs))
    # What both share, where a character is split between them: prompt and rest are the whole.
    both = zip(as_texts(tokenizer, prompts), texts, strict=True)
    heads = [text[: common_length(head, text)] for head, text in both]
    return heads, [text[len(head) :] for head, text in zip(heads, texts, strict=True)]


def as_texts(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Sequence[int]]) -> list[str]:
    """Tokens as texts, without special ones."""
    return [text_of(tokenizer, ids) for ids in rows]


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Tokens as a text, without special ones."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def named(prompt: Any, look: bytes) -> str:
    """A prompt as text, or its tokens, with a digest of its pictures where it has some."""
    return f"{prompt}{look.hex()}"


def texts_of(rows: TextRows) -> dict[str, Iterator[str]]:
    """The prompts, and every completion with its prompt before it, one after another, with digests
    of the pictures."""
    # A look at the tokens, without pictures, which would be decoded for it.
    wholes = (
        ([*item.prompt, *ids], item.look) for item in rows.viewed() for ids in item.completions
    )
    prompts = ((item.prompt, item.look) for item in rows.viewed())

    def texts(rows_of: Iterable[tuple[Sequence[int], bytes]]) -> Iterator[str]:
        return (named(text_of(rows.tokenizer, ids), look) for ids, look in rows_of)

    return {"prompts": texts(prompts), "completions": texts(wholes)}


def overlaps(run: str, compared: Comparison) -> tuple[Overlap, Overlap]:
    """How many of the prompts, and of the pairs, are in the training set of a run. A pair is where
    one of its completions is: the run may have been trained on single ones."""
    heads = as_texts(compared.tokenizer, compared.prompts)
    looks = (look.digest if look else b"" for look in compared.looks or [None] * len(heads))
    prompts = overlap(run, map(named, heads, looks))
    mask = known(run, "completions", texts_of(compared.pairs)["completions"])
    pairs = None if mask is None else int(mask.reshape(-1, 2).any(axis=1).sum())
    return prompts, Overlap(len(compared.pairs), pairs, "pair")


def compare(
    compared: Comparison, policy: TokenScorer, before: Written, after: Written
) -> dict[str, Estimate]:
    """The figures of ``after``, by the policy, and ``before``, by the reference, with intervals,
    but for those of rewards; without KL and tokens where a service told no tokens."""
    settings, clusters = compared.settings, compared.clusters()
    seed, size, sides = settings.seed, settings.batch_size, (policy, compared.reference)

    # Whole prompts are resampled: continuations of one prompt are not independent.
    def mean(values: Sequence[float]) -> Estimate:
        return clustered_mean(values, clusters, seed)

    figures = {}
    if after.completions is not None:
        prompts, looks = compared.repeated_prompts(), compared.repeated_looks()
        ratio_N = log_ratios(compared.task, *sides, prompts, after.completions, size, looks)
        figures["kl"] = mean(ratio_N.tolist())
    for name, written in (("policy_tokens", after), ("reference_tokens", before)):
        if written.completions is not None:
            figures[name] = mean([len(ids) for ids in written.completions])
    margin_B = pair_margins(compared.task, *sides, compared.pairs.items, size)
    pair_prompts = [named(tuple(item.prompt), item.look) for item in compared.pairs.viewed()]
    share = clustered_share(accuracy(margin_B).tolist(), pair_prompts, seed)
    return {**figures, "implicit_accuracy": share}


def log_ratios(
    task: TextTask,
    policy: nn.Module,
    reference: nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    batch_size: int,
    looks: Sequence[Look | None] = (),
) -> Tensor:
    """log π(y|x) − log π_ref(y|x): ``(N,)``. Its mean over y ~ π estimates the sequence KL(π ‖
    π_ref) without bias."""

    def batch(chunk: slice) -> TextBatch:
        # Single items: two that follow each other may have one prompt and other pictures.
        return TextBatch(
            list(prompts[chunk]),
            list(completions[chunk]),
            desirable_N=torch.ones(len(prompts[chunk]), dtype=torch.bool),
            pictures=together([look.read() if look else None for look in looks[chunk]]),
        )

    chunks = [slice(first, first + batch_size) for first in range(0, len(prompts), batch_size)]
    return torch.cat([reward_of(task, policy, reference, batch(chunk)) for chunk in chunks])


def pair_margins(
    task: TextTask,
    policy: nn.Module,
    reference: nn.Module,
    items: Sequence[TextItem],
    batch_size: int,
) -> Tensor:
    """Implicit reward of the chosen completion minus that of the rejected one: ``(B,)``."""
    batches = [task.collate(list(some)) for some in batched(items, batch_size)]
    rewards = [reward_of(task, policy, reference, batch).chunk(2) for batch in batches]
    return torch.cat([chosen_B - rejected_B for chosen_B, rejected_B in rewards])


@torch.no_grad()
def reward_of(task: TextTask, policy: nn.Module, reference: nn.Module, batch: TextBatch) -> Tensor:
    """log π(y|x) − log π_ref(y|x) of every completion, before beta: ``(N,)`` (Rafailov et al. 2023,
    eq. 5)."""
    draw = task.draw(batch)
    return implicit_reward(
        task.score(policy, draw).score_N, task.score(reference, draw).score_N
    ).cpu()
