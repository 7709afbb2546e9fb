"""Batches of text: the tokens of all items in one vector, and which of them are scored.

Shapes: ``N`` completions, winners first, or single; ``S`` tokens of all items; ``P`` scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from diffdpo.text.layout import Lengths
from diffdpo.text.row_reader import TextItem


@dataclass(frozen=True)
class TextBatch:
    """``N`` prompts with one completion each, as lists: pairs, all winners before all losers, or
    single items with their labels."""

    prompts: list[Sequence[int]]
    completions: list[Sequence[int]]
    outcome_B: Tensor | None = None
    desirable_N: Tensor | None = None
    reference_N: Tensor | None = None  # scores that were stored before training

    @property
    def pairs(self) -> int:
        """The number of pairs, or of single items."""
        return len(self.prompts) // (2 if self.desirable_N is None else 1)

    def items(self) -> list[list[Sequence[int]]]:
        """A list per row of data: the prompt, then its completions, two of a pair and one of a
        single item."""
        # Unlabelled single completions come without desirable_N as well (comparison.log_ratios), so
        # the prompts decide what is a pair: both halves of the batch have the same ones.
        half = len(self.prompts) // 2
        paired = self.desirable_N is None and self.prompts[:half] == self.prompts[half:]
        count = half if paired else len(self.prompts)
        return [[self.prompts[item], *self.completions[item::count]] for item in range(count)]

    def with_completions(self, completions: list[Sequence[int]]) -> TextBatch:
        """The same prompts with other completions, which have no stored scores."""
        return replace(self, completions=completions, reference_N=None)


@dataclass(frozen=True)
class TextDraw:
    """Inputs and targets of one forward pass, on the device."""

    token_S: Tensor  # of every pair or single item: its prompt, then its completions
    lengths: list[Lengths]
    target_P: Tensor
    score_prompts: bool
    sizes: list[int]  # scored tokens per completion, then per prompt where these are scored
    outcome_B: Tensor | None
    desirable_N: Tensor | None
    reference_N: Tensor | None
    gap_B: None = None  # gaps are read of pairs of pictures alone

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
        sizes = self.sizes[: self.completions]
        return torch.tensor(sizes, dtype=torch.float32, device=self.target_P.device).clamp(min=1)


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
    )


def spans(lengths: list[Lengths], score_prompts: bool) -> list[tuple[int, int]]:
    """(first, end) of the tokens to score in ``token_S``: of all first completions, of all second
    ones, then of the prompts where these are scored.

    The first token of a row is left out: nothing stands before it to predict it from.
    """
    starts = [0]
    for sizes in lengths:
        starts.append(starts[-1] + sum(sizes))
    # ``starts`` ends with the end of the last item, so it is one longer than ``lengths``.
    scored = []
    for side in range(1, len(lengths[0])):
        for start, sizes in zip(starts, lengths, strict=False):
            first = start + sum(sizes[:side])
            scored.append((first if sizes[0] else first + 1, first + sizes[side]))
    if score_prompts:
        scored += [
            (start + 1, max(start + 1, start + sizes[0]))
            for start, sizes in zip(starts, lengths, strict=False)
        ]
    return scored


def make_draw(batch: TextBatch, device: torch.device, score_prompts: bool = False) -> TextDraw:
    """The tokens of a batch on ``device``; how they form rows is decided by the scorer."""
    items = batch.items()
    lengths = [tuple(map(len, item)) for item in items]
    # Indices are made on the CPU and copied once each: thousands of small kernels would be slower.
    token_S = torch.tensor(list(chain.from_iterable(chain.from_iterable(items))), dtype=torch.long)
    scored = spans(lengths, score_prompts)
    target = torch.cat([torch.arange(first, end) for first, end in scored])

    def on_device(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.to(device)

    return TextDraw(
        token_S=token_S.to(device),
        lengths=lengths,
        target_P=token_S[target].to(device),
        score_prompts=score_prompts,
        sizes=[end - first for first, end in scored],
        outcome_B=on_device(batch.outcome_B),
        desirable_N=on_device(batch.desirable_N),
        reference_N=on_device(batch.reference_N),
    )
