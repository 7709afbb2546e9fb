"""Lays tokens out in the rows that the network reads: a prompt before one completion, or before
both of a pair. It knows no network, so that data workers can do it.

Shapes: ``N`` rows × ``T`` tokens of one forward pass; ``S`` tokens of one row, or of all items;
``P`` scored tokens of all items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from diffdpo.engine.transfer import Batch

Lengths = tuple[int, ...]  # tokens of a prompt and of its completions, one or two
PADDING = 0.05  # largest share of padding among the tokens of a forward pass
PROMPT, PAD = 0, -1  # the segments of a row; its completions are 1 and 2
SEGMENTS = 3  # of a row; those of the next one in the same pass follow these
WHOLE_PROMPT = 2  # a scored prompt, counted as a side that comes after sides 0 and 1
# Measured on one CPU core, forward and backward of Llama bodies 128, 384 and 1024 wide, 12 shapes
# of pairs: one row takes 0.58 of the time of two at (400, 50, 50) tokens and width 384, 0.93 at
# (100, 200, 200), 1.27 at (200, 700, 700). They are even where the time that a prompt
# token saves is that of 8 · width pairs of tokens in the attention.
WORTH = 8


@dataclass(frozen=True)
class Rule:
    """How a network reads items: whether a prompt stands once before both completions of a pair
    (None: where that saves time), and how many tokens there are in a pass.

    ``width`` is that of its hidden states.
    """

    share: bool | None
    width: int
    at_once: int
    packed: bool = False  # rows one behind the other without padding
    masked: bool = False  # packed rows under a mask; without, each has its own prompt

    def shares(self, lengths: Lengths) -> bool:
        """Whether an item becomes one row, with its prompt computed once for both completions."""
        if self.packed:
            # Where pairs of tokens that do not see each other cost nothing, it always saves time.
            return self.masked and self.share is not False and lengths[0] > 0
        if self.share is None and lengths[0]:
            return pays(lengths, self.width)
        return bool(self.share and lengths[0])


@dataclass(frozen=True)
class Row:
    """A prompt followed by one or both of its completions. Of two, the second stands behind the
    first without seeing it."""

    item: int
    sides: tuple[int, ...]  # which completions: 0 and/or 1
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
        """Indices of its tokens among the tokens of all items."""
        first = self.start + sum(self.lengths[: 1 + self.sides[0]])
        behind = torch.arange(first, first + self.size - self.prompt)
        return torch.cat([torch.arange(self.start, self.start + self.prompt), behind])

    @property
    def position_S(self) -> Tensor:
        """The position that the network is told for each token."""
        # Both completions count on from the prompt, as each would in a row of its own.
        behind = [self.prompt + torch.arange(self.lengths[1 + side]) for side in self.sides]
        return torch.cat([torch.arange(self.prompt), *behind])

    @property
    def segment_S(self) -> Tensor:
        """What each token belongs to: 0 is the prompt, 1 and 2 the first and second completion."""
        sizes = [self.prompt, *(self.lengths[1 + side] for side in self.sides)]
        return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))

    def sources(self) -> dict[int, Tensor]:
        """Indices in the row of the tokens that predict others: for every side those that predict
        its completion, for ``WHOLE_PROMPT`` those that predict the prompt.

        A token is predicted from the one before it, so the first of a row is not predicted at all.
        """
        sources, end = {WHOLE_PROMPT: torch.arange(max(0, self.prompt - 1))}, self.prompt
        for side in self.sides:
            size = self.lengths[1 + side]
            # The second completion too is predicted from the prompt's last token on, although the
            # first stands in between. Without a prompt this is empty.
            last = torch.arange(max(0, self.prompt - 1), self.prompt)
            sources[side] = torch.cat([last, torch.arange(end, end + size - 1)])
            end += size
        return sources


@dataclass(frozen=True)
class Layout(Batch):
    """What a network reads of all items, and what is scored, in one vector: one copy moves it."""

    # Where the scored tokens are predicted, what they are, then the numbers of every pass.
    number_V: Tensor
    scored: int
    # Of each pass what it has for a token, and the sizes of its rows, the longest first. A token
    # has its word; where rows are padded, whether it is real; or its word, segment and position.
    passes: tuple[tuple[int, list[int]], ...]
    items: tuple[list[int], ...] = ()  # of each pass the item of every row
    # The rows of a pass are one, and a token has its word, its position, and its segment under a
    # mask; without, the end of a row: as many of these as there are rows, then zeros.
    packed: bool = False

    @property
    def source_P(self) -> Tensor:
        """Where in the flattened outputs of all passes the scored tokens are predicted."""
        return self.number_V[: self.scored]

    @property
    def target_P(self) -> Tensor:
        """The scored tokens: of all first completions, of all second ones, then of the prompts
        where these are scored."""
        return self.number_V[self.scored : 2 * self.scored]

    def reads(self) -> list[Tensor]:
        """What each pass reads, ``(K, N, T)``."""
        shapes = [
            (kinds, 1, sum(sizes)) if self.packed else (kinds, len(sizes), sizes[0])
            for kinds, sizes in self.passes
        ]
        pieces = self.number_V[2 * self.scored :].split([k * n * t for k, n, t in shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def laid_out(
    token_S: Tensor, lengths: list[Lengths], rule: Rule, score_prompts: bool = False
) -> Layout:
    """The layout of items whose prompts and completions stand one after the other in ``token_S``,
    by the ``rule``."""
    group = packs if rule.packed else forward_passes
    read = partial(packed_read, masked=rule.masked) if rule.packed else read_of
    batches = group(lay_out(lengths, rule.shares), rule.at_once)
    reads = [read(rows, token_S) for rows in batches]
    source_P = source_index(batches, score_prompts, rule.packed)
    scored = [torch.arange(first, end) for first, end in spans(lengths, score_prompts)]
    target_P = token_S[torch.cat(scored)]
    return Layout(
        torch.cat([source_P, target_P, *(one.flatten() for one in reads)]),
        len(source_P),
        tuple(
            (len(one), [row.size for row in rows]) for one, rows in zip(reads, batches, strict=True)
        ),
        tuple([row.item for row in rows] for rows in batches),
        rule.packed,
    )


def read_of(rows: list[Row], token_S: Tensor) -> Tensor:
    """What one pass reads, ``(K, N, T)``."""
    token_NT = token_S[padded([row.token_S for row in rows], 0)]
    if len(rows[0].sides) > 1:
        segment_NT = padded([row.segment_S for row in rows], PAD)
        return torch.stack([token_NT, segment_NT, padded([row.position_S for row in rows], 0)])
    # Rows come longest first, so the first and the last tell whether any is padded.
    if rows[-1].size < rows[0].size:
        real = [torch.ones(row.size, dtype=torch.long) for row in rows]
        return torch.stack([token_NT, padded(real, 0)])
    return token_NT[None]


def packed_read(rows: list[Row], token_S: Tensor, masked: bool) -> Tensor:
    """What one pass of packed rows reads, ``(3, 1, T)``."""
    token_T = token_S[torch.cat([row.token_S for row in rows])]
    position_T = torch.cat([row.position_S for row in rows])
    if masked:
        told_T = torch.cat([SEGMENTS * n + row.segment_S for n, row in enumerate(rows)])
    else:
        told_T = torch.zeros_like(token_T)
        told_T[: len(rows)] = torch.tensor([row.size for row in rows]).cumsum(0)
    return torch.stack([token_T, position_T, told_T])[:, None]


def lay_out(lengths: list[Lengths], shares: Callable[[Lengths], bool]) -> list[Row]:
    """The rows of all items: one for a pair whose prompt ``shares`` says to share, else one for
    each completion."""
    rows, start = [], 0
    for item, sizes in enumerate(lengths):
        sides = tuple(range(len(sizes) - 1))
        shared = len(sides) == 2 and shares(sizes)
        rows += [
            Row(item, row_sides, start, sizes)
            for row_sides in ([sides] if shared else [(side,) for side in sides])
        ]
        start += sum(sizes)
    return rows


def forward_passes(rows: list[Row], at_once: int) -> list[list[Row]]:
    """Groups the rows into forward passes of rows of like length: at most ``PADDING`` of a pass is
    padding, and it has at most ``at_once`` tokens unless a single row has more."""
    batches: list[list[Row]] = []
    # The longest comes first in every pass: the width of a padded pass is that of its first row.
    # Rows with one completion and with two never mix, because only the latter need a mask.
    for row in sorted(rows, key=lambda row: (len(row.sides), row.size), reverse=True):
        if batches:
            together = [*batches[-1], row]
            padded, real = len(together) * together[0].size, sum(other.size for other in together)
            fits = padded <= at_once and padded * (1 - PADDING) <= real
            if fits and len(row.sides) == len(batches[-1][0].sides):
                batches[-1].append(row)
                continue
        batches.append([row])
    return batches


def packs(rows: list[Row], at_once: int) -> list[list[Row]]:
    """Groups rows into passes of at most ``at_once`` tokens unless a single row has more."""
    batches: list[list[Row]] = []
    for row in rows:
        if batches and sum(other.size for other in [*batches[-1], row]) <= at_once:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def source_index(batches: list[list[Row]], score_prompts: bool, packed: bool = False) -> Tensor:
    """``(P,)``: where in the flattened outputs of all passes the scored tokens are predicted: those
    of all first completions, of all second ones, then of the prompts where these are scored."""
    index_by_item: dict[tuple[int, int], Tensor] = {}
    base = 0
    for rows in batches:
        for row in rows:
            for side, index in row.sources().items():
                # A prompt is scored once, in the row that holds the first completion.
                if side in row.sides or (score_prompts and 0 in row.sides):
                    index_by_item[side, row.item] = base + index
            base += row.size if packed else rows[0].size
    # By side, then by item: the order of the targets, which ``batch.spans`` fixes.
    return torch.cat([index_by_item[key] for key in sorted(index_by_item)])


def padded(rows: list[Tensor], value: int) -> Tensor:
    """Rows of unlike length as one tensor ``(N, T)``, filled up on the right with ``value``."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def spans(lengths: list[Lengths], score_prompts: bool) -> list[tuple[int, int]]:
    """(first, end) of the tokens to score among those of all items: of all first completions, of
    all second ones, then of the prompts where these are scored.

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


def pays(lengths: Lengths, width: int) -> bool:
    """Whether one row of prompt, chosen and rejected takes less time than two rows with the prompt
    in each.

    It saves the prompt's products with the weights once. It pays with pairs of tokens in the
    attention: a masked row is computed as a full square, a causal one as half a square.
    """
    prompt, chosen, rejected = lengths
    apart = ((prompt + chosen) ** 2 + (prompt + rejected) ** 2) / 2
    return WORTH * width * prompt >= (prompt + chosen + rejected) ** 2 - apart
