"""Rows of several data sets as one: each is read by its own format, and the mixture says which of
them are there, and how often."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np
from numpy.typing import NDArray

from diffdpo.data.mixtures import mixed, told_weight
from diffdpo.engine.digests import digest
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens.tally import Tally
from diffdpo.text.tokens.token_table import COUNTED, TokenTable


class MixedTexts(TextRows):
    """The items of ``parts`` that are in the mixture, those of the first part first. Rows are
    numbered through all parts."""

    def __init__(
        self,
        parts: Sequence[TextRows],
        labels: Sequence[str],
        strategy: str,
        weights: Sequence[float] | None,
        seed: int,
    ) -> None:
        """Raises UserError where ``weights`` leave nothing of a part."""
        first = parts[0]
        self.tokenizer, self.settings, self.format = first.tokenizer, first.settings, first.format
        self.labels, self.strategy, self.weights = list(labels), strategy, weights
        self.tallies = [part.tally for part in parts]
        self.twice = in_others(parts)
        # Of one part each; their numbers of columns mean something in the part alone.
        stored = [part.table.stored for part in parts]
        self.table = TokenTable(datasets.concatenate_datasets(stored))
        self.first_S = np.cumsum([0, *(len(rows) for rows in stored)])  # row of every set
        items = mixed(strategy, [len(part) for part in parts], weights, seed)
        self.row_I, self.side_I = joined(parts, items, self.first_S)
        self.tally = total(self.tallies, self.labels)
        self.reference = None

    @property
    def counts(self) -> NDArray[np.int64]:
        """The items of every set."""
        ends = np.searchsorted(self.row_I, self.first_S)
        return np.diff(ends)

    def named(self, row: int) -> str:
        """A row for a line to the user."""
        part, own = place(self.first_S, row)
        return f"row {own} of {self.labels[part]}"

    def lines(self, what: str) -> dict[str, str]:
        """What the mixture is made of, for the start of a run."""
        parts = []
        for index, (label, tally) in enumerate(zip(self.labels, self.tallies, strict=True)):
            weight = told_weight(self.weights, index)
            parts.append(
                f"{label}: {self.counts[index]:,} {what} of {tally.rows:,} rows ({tally.format}"
                f"{weight}), {len(tally.bad)} unusable"
            )
        lines = {"data": "; ".join([*parts, f"mixed by {self.strategy}"])}
        found = zip(self.labels, self.twice, strict=True)
        known = [f"{count:,} of {label}" for label, count in found if count]
        if known:
            lines["twice"] = f"{', '.join(known)} stand in an earlier data set as well"
        return lines


def joined(
    parts: Sequence[TextRows], items: Sequence[NDArray[np.int64]], first_S: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows and the sides of the ``items`` of each part, one part after another; the rows of a
    part are numbered from ``first_S`` on."""
    rows = zip(first_S, parts, items, strict=False)
    row_I = np.concatenate([start + part.row_I[own] for start, part, own in rows])
    both = zip(parts, items, strict=True)
    return row_I, np.concatenate([part.side_I[own] for part, own in both])


def place(first_S: NDArray[np.int64], row: int) -> tuple[int, int]:
    """The part of a row, and its number there."""
    part = int(np.searchsorted(first_S, row, side="right")) - 1
    return part, int(row - first_S[part])


def in_others(parts: Sequence[TextRows]) -> list[int]:
    """How many items of every part are in one before it as well, to the letter."""
    known: set[str] = set()
    counts = []
    for part in parts:
        own = {digest(content) for some in part.contents() for content in some.to_pylist()}
        counts.append(len(own & known))
        known |= own
    return counts


def total(tallies: Sequence[Tally], labels: Sequence[str]) -> Tally:
    """The counts of all data sets together."""
    summed = {name: sum(getattr(tally, name) for tally in tallies) for name in SUMMED}
    shortest = [tally.shortest for tally in tallies if tally.too_long]
    named = list(zip(labels, tallies, strict=True))
    return Tally(
        format=" and ".join(dict.fromkeys(tally.format for tally in tallies)),
        unread=list(dict.fromkeys(column for tally in tallies for column in tally.unread)),
        bad=[f"{label}, {line}" for label, tally in named for line in tally.bad],
        shortest=min(shortest, default=0),
        left_out=[text for tally in tallies for text in tally.left_out],
        **summed,
    )


SUMMED = ["rows", "too_long", *COUNTED]
