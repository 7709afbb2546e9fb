"""Where tokens stand in the rows that the network reads: a prompt before one completion, or before
both of a pair.

Shapes: ``N`` rows × ``T`` tokens of one forward pass; ``S`` tokens of one row; ``P`` scored tokens
of all items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Lengths = tuple[int, ...]  # tokens of a prompt and of its completions, one or two
PADDING = 0.05  # of the tokens of a forward pass, at most
PROMPT, PAD = 0, -1  # what a token belongs to; completions are 1 and 2
WHOLE_PROMPT = 2  # stands behind sides 0 and 1 in the order of the items


@dataclass(frozen=True)
class Row:
    """A prompt and the completions ``sides`` of it. A second one stands behind the first and does
    not see it."""

    item: int
    sides: tuple[int, ...]
    start: int  # of the prompt, among the tokens of all items; the completions follow it there
    lengths: Lengths

    @property
    def prompt(self) -> int:
        return self.lengths[0]

    @property
    def size(self) -> int:
        return self.prompt + sum(self.lengths[1 + side] for side in self.sides)

    @property
    def token_S(self) -> Tensor:
        """Its tokens, among those of all items."""
        first = self.start + sum(self.lengths[: 1 + self.sides[0]])
        behind = torch.arange(first, first + self.size - self.prompt)
        return torch.cat([torch.arange(self.start, self.start + self.prompt), behind])

    @property
    def place_S(self) -> Tensor:
        """Positions; every completion's begin at the end of the prompt."""
        behind = [self.prompt + torch.arange(self.lengths[1 + side]) for side in self.sides]
        return torch.cat([torch.arange(self.prompt), *behind])

    @property
    def part_S(self) -> Tensor:
        """What each token belongs to."""
        sizes = [self.prompt, *(self.lengths[1 + side] for side in self.sides)]
        return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))

    def sources(self) -> dict[int, Tensor]:
        """For every side the places in the row from which its tokens are predicted, and for
        ``WHOLE_PROMPT`` those of the prompt's. The first token of a row has nothing before it; both
        completions begin after the prompt's last."""
        found, end = {WHOLE_PROMPT: torch.arange(max(0, self.prompt - 1))}, self.prompt
        for side in self.sides:
            size = self.lengths[1 + side]
            last = torch.arange(max(0, self.prompt - 1), self.prompt)
            found[side] = torch.cat([last, torch.arange(end, end + size - 1)])
            end += size
        return found


def lay_out(lengths: list[Lengths], shares: Callable[[Lengths], bool]) -> list[Row]:
    """Rows of all items: one for both completions of a pair that shares its prompt, else one for
    each."""
    rows, start = [], 0
    for item, sizes in enumerate(lengths):
        sides = tuple(range(len(sizes) - 1))
        shared = len(sides) == 2 and shares(sizes)
        rows += [
            Row(item, taken, start, sizes)
            for taken in ([sides] if shared else [(side,) for side in sides])
        ]
        start += sum(sizes)
    return rows


def passes(rows: list[Row], at_once: int) -> list[list[Row]]:
    """The rows cut into forward passes, the longest first: rows of like length in one, with little
    padding, of ``at_once`` tokens unless a row alone has more. Rows with one completion and with
    two never mix."""
    found: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: (len(row.sides), row.size), reverse=True):
        if found:
            together = [*found[-1], row]
            padded, real = len(together) * together[0].size, sum(other.size for other in together)
            fits = padded <= at_once and padded * (1 - PADDING) <= real
            if fits and len(row.sides) == len(found[-1][0].sides):
                found[-1].append(row)
                continue
        found.append([row])
    return found


def source_places(batches: list[list[Row]], score_prompts: bool) -> Tensor:
    """``(P,)``: places in the flattened passes from which the scored tokens are predicted: all
    first completions, all second ones, then the prompts of the first where these are scored as
    well."""
    found: dict[tuple[int, int], Tensor] = {}
    base = 0
    for rows in batches:
        for row in rows:
            for side, place in row.sources().items():
                if side in row.sides or (score_prompts and 0 in row.sides):
                    found[side, row.item] = base + place
            base += rows[0].size
    return torch.cat([found[key] for key in sorted(found)])


def padded(rows: list[Tensor], value: int) -> Tensor:
    """``(N, T)``, filled up on the right."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def visible(part_NT: Tensor) -> Tensor:
    """``(N, 1, T, T)``, True where the third axis may look at the fourth: backward, at the prompt
    and the own part."""
    own = part_NT[:, :, None] == part_NT[:, None, :]
    return ((own | (part_NT == PROMPT)[:, None, :]).tril())[:, None]
