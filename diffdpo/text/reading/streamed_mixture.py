"""Several data sets that are read from shards while training runs, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise

import datasets
import numpy as np
from numpy.typing import NDArray

from diffdpo.data.mixtures import mixed, told_weight
from diffdpo.data.streams.order import interleaved
from diffdpo.engine.digests import digest
from diffdpo.text.reading.mixed import joined, place, total
from diffdpo.text.reading.streamed import StreamedTexts
from diffdpo.text.tokens.row_reader import RowResult
from diffdpo.text.tokens.token_table import TokenTable


class StreamedMixture(StreamedTexts):
    """The items of ``parts`` that are in the mixture. Rows are numbered through all parts. Weights
    count rows as they stand in the shards, usable or not."""

    def __init__(
        self,
        parts: Sequence[StreamedTexts],
        labels: Sequence[str],
        strategy: str,
        weights: Sequence[float] | None,
        seed: int,
    ) -> None:
        """Raises UserError where ``weights`` leave nothing of a part."""
        first = parts[0]
        self.parts, self.labels = list(parts), list(labels)
        self.strategy, self.weights = strategy, weights
        self.tokenizer, self.settings, self.format = first.tokenizer, first.settings, first.format
        # Of the rows that were looked at.
        self.table = TokenTable(datasets.concatenate_datasets([p.table.stored for p in parts]))
        self.tally = total([part.tally for part in parts], self.labels)
        self.first_S = np.cumsum([0, *(len(part.stream) for part in parts)])  # row of every set
        items = mixed(strategy, [len(part) for part in parts], weights, seed)
        self.row_I, self.side_I = joined(parts, items, self.first_S)
        self.seen = self.bad = self.long = 0
        self.reference = None
        self.prepare()

    @property
    def spans(self) -> list[slice]:
        """The items of every set."""
        return [slice(*ends) for ends in pairwise(np.searchsorted(self.row_I, self.first_S))]

    def own_rows(self, part: int) -> NDArray[np.int64]:
        """The rows of the items of a set, as it numbers them itself."""
        return self.row_I[self.spans[part]] - self.first_S[part]

    def prepare(self) -> None:
        for number, part in enumerate(self.parts):
            part.stream.keep(np.unique(self.own_rows(number)), part.stream.column_names)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The permutation of an epoch: each set by its own almost sequential order, and between
        them at random in proportion, so that they end together."""
        orders = [
            span.start + part.stream.order(self.own_rows(number), seed, epoch)
            for number, (span, part) in enumerate(zip(self.spans, self.parts, strict=True))
        ]
        return interleaved(orders, seed, epoch)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of those of all sets, and of the choice of items."""
        own = (part.fingerprint for part in self.parts)
        return digest(*own, self.row_I.tobytes(), self.side_I.tobytes())

    @property
    def desirable(self) -> int:
        shares = [part.desirable / len(part) for part in self.parts]
        counts = [span.stop - span.start for span in self.spans]
        return round(sum(n * share for n, share in zip(counts, shares, strict=True)))

    def result(self, row: int) -> RowResult:
        part, own = place(self.first_S, row)
        return replace(self.parts[part].result(own), row=row)

    def named(self, row: int) -> str:
        part, own = place(self.first_S, row)
        return f"{self.parts[part].named(own)} of {self.labels[part]}"

    def where(self, row: int) -> str:
        part, own = place(self.first_S, row)
        return f"{self.parts[part].where(own)} of {self.labels[part]}"

    def stream_line(self) -> str:
        return "; ".join(part.stream_line() for part in self.parts)

    def line(self, what: str) -> dict[str, str]:
        found = []
        for number, (label, part) in enumerate(zip(self.labels, self.parts, strict=True)):
            weight = told_weight(self.weights, number)
            found.append(
                f"{label}: {len(self.own_rows(number)):,} of {len(part):,} {what}"
                f" ({part.tally.format}{weight})"
            )
        return {**super().line(what), "data": "; ".join([*found, f"mixed by {self.strategy}"])}
