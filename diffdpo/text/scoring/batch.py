"""Batches of text: the tokens of all items in one vector, and which of them are scored.

Shapes: ``N`` completions, winners first, or single; ``S`` tokens of all items; ``P`` scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from diffdpo.engine.transfer import Batch, on_device
from diffdpo.text.scoring.layout import Layout, Lengths, Rule, laid_out, spans
from diffdpo.text.tokens.row_reader import TextItem
from diffdpo.text.vision.pictures import Pictures, together


@dataclass(frozen=True)
class Tokens(Batch):
    """The tokens of all items of a batch, one after the other, and how many of them are scored."""

    token_S: Tensor  # of every pair or single item: its prompt, then its completions
    lengths: list[Lengths]
    sizes: list[int]  # scored tokens per completion, then per prompt where these are scored
    size_M: Tensor  # the same

    @classmethod
    def of(cls, items: list[list[Sequence[int]]], score_prompts: bool) -> Tokens:
        """The tokens of these items, as ``TextBatch.items`` gives them."""
        lengths = [tuple(map(len, item)) for item in items]
        every = list(chain.from_iterable(chain.from_iterable(items)))
        sizes = [end - first for first, end in spans(lengths, score_prompts)]
        return cls(torch.tensor(every, dtype=torch.long), lengths, sizes, torch.tensor(sizes))


@dataclass(frozen=True)
class TextBatch(Batch):
    """``N`` prompts with one completion each, as lists: pairs, all winners before all losers, or
    single items with their labels."""

    prompts: list[Sequence[int]]
    completions: list[Sequence[int]]
    outcome_B: Tensor | None = None
    desirable_N: Tensor | None = None
    reference_N: Tensor | None = None  # scores that were stored before training
    pictures: Pictures | None = None  # in the prompts of the items, for image–text models
    # Made by the data workers; where they were not, ``make_draw`` makes them.
    tokens: Tokens | None = None
    layout: Layout | None = None  # by the rule of the policy

    @property
    def pairs(self) -> int:
        """The number of pairs, or of single items."""
        return len(self.prompts) // (2 if self.desirable_N is None else 1)

    def items(self) -> list[list[Sequence[int]]]:
        """A list per row of data: the prompt, then its completions, two of a pair and one of a
        single item."""
        count = self.pairs
        return [[self.prompts[item], *self.completions[item::count]] for item in range(count)]

    def with_completions(self, completions: list[Sequence[int]]) -> TextBatch:
        """The same prompts with other completions, which have no stored scores."""
        return replace(self, completions=completions, reference_N=None, tokens=None, layout=None)


@dataclass(frozen=True)
class TextDraw:
    """Inputs and targets of one forward pass, on the device."""

    token_S: Tensor
    scored_M: Tensor  # numbers of scored tokens: ``sizes``, on the device
    host: Tokens  # the tokens in host memory
    score_prompts: bool
    layouts: dict[Rule, Layout]  # by the rules under which the batch was read so far
    outcome_B: Tensor | None
    desirable_N: Tensor | None
    reference_N: Tensor | None
    pictures: Pictures | None = None
    gap_B: None = None  # gaps are read of pairs of pictures alone

    @property
    def lengths(self) -> list[Lengths]:
        """Tokens of the prompt and of the completions of every item."""
        return self.host.lengths

    @property
    def sizes(self) -> list[int]:
        """Scored tokens per completion, then per prompt where these are scored."""
        return self.host.sizes

    @property
    def completions(self) -> int:
        """``N``, the number of completions; scored prompts do not count."""
        return sum(len(sizes) - 1 for sizes in self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of all completions with the prompt before each, without padding."""
        # A pair holds its prompt once, but each of its completions was read with it, as TRL counts.
        return sum(sum(sizes) + (len(sizes) - 2) * sizes[0] for sizes in self.lengths)

    @property
    def size_N(self) -> Tensor:
        """Scored tokens of every completion, at least 1: ``(N,)``, float32."""
        # At least 1, because a completion of one token without a prompt has nothing to score, and
        # its mean over tokens must not be 0 / 0.
        return self.scored_M[: self.completions].float().clamp(min=1)

    def layout(self, rule: Rule) -> Layout:
        """What a network reads by its ``rule``, once for all networks of the same."""
        if rule not in self.layouts:
            host = laid_out(self.host.token_S, self.lengths, rule, self.score_prompts)
            self.layouts[rule] = on_device(host, self.token_S.device)
        return self.layouts[rule]


def collate(items: list[TextItem]) -> TextBatch:
    """The batch of some items: winners first, then losers; or single items in their order."""
    sides = range(len(items[0].completions))
    outcomes, labels = [item.outcome for item in items], [item.desirable for item in items]
    stored = [item.reference[side] for side in sides for item in items if item.reference]
    # outcome_B stays None where every label is certain: the loss then needs no swapped term.
    return TextBatch(
        prompts=[item.prompt for _ in sides for item in items],
        completions=[item.completions[side] for side in sides for item in items],
        outcome_B=torch.tensor(outcomes) if min(outcomes) < 1 else None,
        desirable_N=None if labels[0] is None else torch.tensor(labels),
        reference_N=torch.tensor(stored) if stored else None,
        pictures=together([item.pictures for item in items]),
    )


@dataclass(frozen=True)
class Collation:
    """Collates items in the data workers, and lays them out by the policy's ``rule``."""

    score_prompts: bool
    rule: Rule | None

    def __call__(self, items: list[TextItem]) -> TextBatch:
        batch = collate(items)
        if self.rule is None:
            return batch
        tokens = Tokens.of(batch.items(), self.score_prompts)
        layout = laid_out(tokens.token_S, tokens.lengths, self.rule, self.score_prompts)
        return replace(batch, tokens=tokens, layout=layout)


def make_draw(
    batch: TextBatch, device: torch.device, score_prompts: bool = False, rule: Rule | None = None
) -> TextDraw:
    """The tokens of a batch on ``device``; its layout, where it has one, is by the ``rule``."""
    host = batch.tokens or Tokens.of(batch.items(), score_prompts)
    layouts = {rule: on_device(batch.layout, device)} if rule and batch.layout else {}
    return TextDraw(
        token_S=on_device(host.token_S, device),
        scored_M=on_device(host.size_M, device),
        host=host,
        score_prompts=score_prompts,
        layouts=layouts,
        outcome_B=on_device(batch.outcome_B, device),
        desirable_N=on_device(batch.desirable_N, device),
        reference_N=on_device(batch.reference_N, device),
        pictures=on_device(batch.pictures, device),
    )
