"""Batches of text: padded tokens, and the flat list of the positions whose next token is scored.

Shapes: ``N`` items × ``T`` tokens; ``P`` scored positions of all items, one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdpo.text.rows import TextItem


@dataclass(frozen=True)
class TextBatch:
    """``N`` prompts with a completion each: pairs with the winners first, or single items with their labels."""

    prompts: list[Sequence[int]]
    completions: list[Sequence[int]]
    outcome_B: Tensor | None = None
    desirable_N: Tensor | None = None
    reference_N: Tensor | None = None

    @property
    def pairs(self) -> int:
        """How many pairs, or single items."""
        return len(self.prompts) // (2 if self.desirable_N is None else 1)

    def with_completions(self, completions: list[Sequence[int]]) -> TextBatch:
        """The same prompts with other completions."""
        return replace(self, completions=completions, reference_N=None)


@dataclass(frozen=True)
class TextDraw:
    """What the network is asked. ``sizes`` are the scored tokens of each item: all completions, then the prompts of
    the winners where these are scored as well."""

    input_ids_NT: Tensor
    attention_NT: Tensor
    position_P: Tensor  # into the N·T tokens, row by row
    target_P: Tensor
    sizes: list[int]
    outcome_B: Tensor | None
    desirable_N: Tensor | None
    reference_N: Tensor | None

    @property
    def size_N(self) -> Tensor:
        """The sizes beside the scores, at least 1."""
        return torch.tensor(self.sizes, dtype=torch.float32, device=self.target_P.device).clamp(min=1)


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


def spans(batch: TextBatch, score_prompts: bool) -> list[tuple[int, int, int]]:
    """(row, first, end) of the tokens to score. The first token of a row has nothing before it to predict it from."""
    rows = list(zip(batch.prompts, batch.completions, strict=True))
    found = [(row, max(1, len(p)), len(p) + len(c)) for row, (p, c) in enumerate(rows)]
    if score_prompts:
        found += [(row, 1, max(1, len(batch.prompts[row]))) for row in range(batch.pairs)]
    return found


def make_draw(batch: TextBatch, pad: int, device: torch.device, score_prompts: bool = False) -> TextDraw:
    """Pad on the right; so positions count from 0 in every row."""
    rows = [[*prompt, *completion] for prompt, completion in zip(batch.prompts, batch.completions, strict=True)]
    width = max(map(len, rows))
    input_ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    attention = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    scored = spans(batch, score_prompts)
    target = torch.cat([torch.arange(row * width + first, row * width + end) for row, first, end in scored])
    return TextDraw(
        input_ids_NT=input_ids.to(device),
        attention_NT=attention.to(device),
        position_P=(target - 1).to(device),
        target_P=input_ids.flatten()[target].to(device),
        sizes=[end - first for _, first, end in scored],
        outcome_B=None if batch.outcome_B is None else batch.outcome_B.to(device),
        desirable_N=None if batch.desirable_N is None else batch.desirable_N.to(device),
        reference_N=None if batch.reference_N is None else pad_to(batch.reference_N, len(scored)).to(device),
    )


def pad_to(value_N: Tensor, size: int) -> Tensor:
    """``value_N`` with zeros behind it: prompts that are scored have no stored score, and no loss compares them."""
    return F.pad(value_N, (0, size - len(value_N)))
