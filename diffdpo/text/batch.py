"""Batches of text: the tokens of all items one after another, and those among them that are scored.

Shapes: ``N`` completions, winners first, or single; ``S`` tokens of all items; ``P`` scored tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from diffdpo.text.layout import Lengths
from diffdpo.text.rows import TextItem


@dataclass(frozen=True)
class TextBatch:
    """``N`` prompts with a completion each: pairs with the winners first, or single items with
    their labels."""

    prompts: list[Sequence[int]]
    completions: list[Sequence[int]]
    outcome_B: Tensor | None = None
    desirable_N: Tensor | None = None
    reference_N: Tensor | None = None

    @property
    def pairs(self) -> int:
        """How many pairs, or single items."""
        return len(self.prompts) // (2 if self.desirable_N is None else 1)

    def items(self) -> list[list[Sequence[int]]]:
        """A prompt with its completions each: two where both halves of the batch have the same
        prompts, which is what pairs look like, else one."""
        half = len(self.prompts) // 2
        paired = self.desirable_N is None and self.prompts[:half] == self.prompts[half:]
        count = half if paired else len(self.prompts)
        return [[self.prompts[item], *self.completions[item::count]] for item in range(count)]

    def with_completions(self, completions: list[Sequence[int]]) -> TextBatch:
        """The same prompts with other completions."""
        return replace(self, completions=completions, reference_N=None)


@dataclass(frozen=True)
class TextDraw:
    """Inputs and targets of one forward pass. ``sizes`` are the scored tokens of all completions,
    then of the prompts of the winners where these are scored as well."""

    token_S: Tensor  # of every pair or single item: its prompt, then its completions
    lengths: list[Lengths]
    target_P: Tensor
    score_prompts: bool
    sizes: list[int]
    outcome_B: Tensor | None
    desirable_N: Tensor | None
    reference_N: Tensor | None

    @property
    def completions(self) -> int:
        """``N``: how many of the scored sequences are completions."""
        return sum(len(sizes) - 1 for sizes in self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of all completions with the prompt before each, without padding."""
        return sum(sum(sizes) + (len(sizes) - 2) * sizes[0] for sizes in self.lengths)

    @property
    def size_N(self) -> Tensor:
        """Scored tokens of every completion, at least 1: ``(N,)``, float32."""
        sizes = self.sizes[: self.completions]
        return torch.tensor(sizes, dtype=torch.float32, device=self.target_P.device).clamp(min=1)


def collate(items: list[TextItem]) -> TextBatch:
    """Winners first, then losers; or single items in their order."""
    sides = range(len(items[0].completions))
    outcomes, labels = [item.outcome for item in items], [item.desirable for item in items]
    stored = [item.reference[side] for side in sides for item in items if item.reference]
    return TextBatch(
        prompts=[item.prompt for _ in sides for item in items],
        completions=[item.completions[side] for side in sides for item in items],
        outcome_B=torch.tensor(outcomes) if min(outcomes) < 1 else None,
        desirable_N=None if labels[0] is None else torch.tensor(labels),
        reference_N=torch.tensor(stored) if stored else None,
    )


def spans(lengths: list[Lengths], score_prompts: bool) -> list[tuple[int, int]]:
    """(first, end) of the tokens to score, all first completions, all second ones, then prompts.
    The first token of a row has nothing before it to predict it from."""
    starts = [0]
    for sizes in lengths:
        starts.append(starts[-1] + sum(sizes))
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
    """The tokens on the device. The scorer decides the row layout."""
    items = batch.items()
    lengths = [tuple(map(len, item)) for item in items]
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
