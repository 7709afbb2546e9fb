"""Text preferences as the engine reads them: every row is rendered, tokenised and cut to length
once; rows that cannot be used are counted and named."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from diffdpo.data.text import detect
from diffdpo.data.text.schema import BadRow, Example
from diffdpo.draws import epoch_order
from diffdpo.engine.batches import Rows
from diffdpo.errors import UserError
from diffdpo.preference import preference_probability
from diffdpo.text.chat import render
from diffdpo.text.encode import Encoded, encode, truncate

TOLERATED = 0.05  # share of rows that may be bad before the run stops


@dataclass(frozen=True)
class TextItem:
    """A pair or a single completion, tokenised."""

    row: int  # of the data set
    prompt: Sequence[int]
    completions: tuple[Sequence[int], ...]  # chosen and rejected, or a single one
    outcome: float = 1.0  # P(chosen ≻ rejected)
    desirable: bool | None = None  # the label of a single completion; None for a pair
    # The reference's scores of the completions, where they are stored.
    reference: tuple[float, ...] | None = None


@dataclass(frozen=True)
class RowSettings:
    """The settings that decide how rows become items."""

    max_length: int | None = None
    paired: bool = True  # False: pairs are taken apart into two labelled completions
    soft_label_scale: float | None = None
    min_score_margin: float | None = None
    data_format: str | None = None  # by name; None: told by the columns


@dataclass
class Tally:
    """Counts of rows that were read, left out or cut."""

    rows: int = 0  # of the source
    format: str = ""
    bad: list[str] = field(default_factory=list)  # a line for each row that cannot be used
    close: int = 0  # left out by --min_score_margin
    prompts_cut: int = 0
    completions_cut: int = 0
    shortest: int = 0  # the least --max_length that would have left a row's completions whole


class TextRows(Rows):
    """The usable rows of a data set as items, all in memory."""

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        settings: RowSettings,
        quiet: bool = True,
    ) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        name, self.format = detect(dataset.column_names, dataset[0], settings.data_format)
        check_scores(dataset.column_names, settings)
        self.tally = Tally(len(dataset), name)
        self.items: list[TextItem] = []
        for row in tqdm(
            range(len(dataset)), desc="tokenising", unit="row", disable=quiet, leave=False
        ):
            self.add(row, dataset[row])
        self.check()

    def add(self, row: int, record: dict) -> None:
        """Take in one row of the source, or note the reason why it cannot be used."""
        try:
            example = self.format.read(record)
            if not self.margin_suffices(example):
                self.tally.close += 1
                return
            encoded = encode(render(example, self.tokenizer), self.tokenizer)
            encoded = self.cut_to_length(encoded)
            self.items += make_items(row, example, encoded, self.settings)
        except BadRow as reason:
            self.tally.bad.append(f"row {row}: {reason}")

    def cut_to_length(self, encoded: Encoded) -> Encoded:
        """``encoded`` within the length limit. Raises BadRow where a completion has no tokens."""
        # A template may write nothing for an answer, for example where it strips white space.
        if not all(encoded.completions):
            raise BadRow("a completion has no tokens of its own")
        fitting = truncate(encoded, self.settings.max_length, self.tokenizer.bos_token_id)
        self.tally.prompts_cut += fitting.cut == "prompt"
        if fitting.cut == "completion":
            self.tally.completions_cut += 1
            longest = max(len(completion) for completion in encoded.completions)
            self.tally.shortest = min(self.tally.shortest or longest, longest)
        return fitting

    def margin_suffices(self, example: Example) -> bool:
        """Whether the chosen score leads by ``--min_score_margin``, where there are scores."""
        least = self.settings.min_score_margin
        return (
            least is None
            or example.scores is None
            or example.scores[0] - example.scores[1] >= least
        )

    def check(self) -> None:
        """Raises UserError where too many rows are bad, none is left, or all completions are longer
        than the limit."""
        tally = self.tally
        if len(tally.bad) > TOLERATED * tally.rows:
            raise UserError(
                f"data: {len(tally.bad)} of {tally.rows} rows cannot be used ({tally.bad[0]})"
            )
        if not self.items:
            raise UserError(
                f"data: none of {tally.rows} rows is left; {tally.close} have too small a score"
                " margin"
            )
        kinds = {item.desirable is None for item in self.items}
        if kinds != {self.settings.paired}:
            raise UserError(
                f"data: rows of format {tally.format!r} are single labelled items; take a loss"
                " like kto"
            )
        if tally.completions_cut == tally.rows - len(tally.bad) - tally.close:
            limit = self.settings.max_length
            raise UserError(
                f"--max_length {limit} is smaller than any completion; the shortest needs"
                f" {tally.shortest}"
            )

    def limit(self, count: int | None, seed: int) -> None:
        """Keep ``count`` items, picked by the seed."""
        if count is not None and count < len(self.items):
            # Epoch -1 is none of the training's, so the choice is independent of every order.
            kept = np.sort(epoch_order(seed, -1, len(self.items))[:count])
            self.items = [self.items[index] for index in kept]
            self.__dict__.pop("fingerprint", None)  # cached, and no longer that of these items

    def is_subset_of(self, other: TextRows) -> bool:
        """Whether every item is also one of the other's."""
        contents = {content_bytes(item) for item in other.items}
        return all(content_bytes(item) in contents for item in self.items)

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all items: it changes when tokens, labels or the choice of rows change."""
        digest = hashlib.blake2b(digest_size=8)
        for item in self.items:
            digest.update(content_bytes(item))
        return digest.hexdigest()

    def read(self, row: int, visit: int) -> TextItem:
        """The item number ``row``, the same on every visit: text has no augmentation."""
        return self.items[row]

    def source(self, row: int) -> int:
        """The row of the data set that item ``row`` was made from."""
        return self.items[row].row

    def preview(self, count: int) -> list[str]:
        """Lines that show the first items as the model will see them: the prompt, which is only
        read, then the completions, which are learned."""
        lines = []
        for item in self.items[:count]:
            names = (
                ("chosen", "rejected") if item.desirable is None else (f"label {item.desirable}",)
            )
            lines.append(
                f"row {item.row}, masked ({len(item.prompt)} tokens): {self.as_text(item.prompt)}"
            )
            for name, ids in zip(names, item.completions, strict=True):
                lines.append(f"row {item.row}, {name} ({len(ids)} tokens): {self.as_text(ids)}")
        return lines

    def as_text(self, ids: Sequence[int]) -> str:
        """Token ids as text, with special tokens and white space visible."""
        return repr(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def content_bytes(item: TextItem) -> bytes:
    """Tokens and labels of an item as bytes, equal for equal items alone."""
    # Each list has its length before it, or a token could move between prompt and completion.
    tokens = [
        np.asarray([len(ids), *ids], dtype=np.int32).tobytes()
        for ids in (item.prompt, *item.completions)
    ]
    return b"".join(tokens) + repr((item.outcome, item.desirable)).encode()


def check_scores(columns: list[str], settings: RowSettings) -> None:
    """Raises UserError where a setting reads scores and the data have none."""
    flags = {
        "soft_label_scale": settings.soft_label_scale,
        "min_score_margin": settings.min_score_margin,
    }
    missing = {"score_chosen", "score_rejected"} - set(columns)
    if missing and (given := [name for name, value in flags.items() if value is not None]):
        raise UserError(f"--{given[0]}: the data has no column {' and '.join(sorted(missing))}")


def make_items(
    row: int, example: Example, encoded: Encoded, settings: RowSettings
) -> list[TextItem]:
    """The items of a row: one for a pair or a labelled completion, two for a pair where the loss
    judges single completions."""
    # Four bytes a token: a list of Python's integers takes nine times as much.
    prompt, completions = (
        array("i", encoded.prompt),
        tuple(array("i", ids) for ids in encoded.completions),
    )
    item = TextItem(row, prompt, completions, outcome(example, settings), example.desirable)
    if settings.paired or example.desirable is not None:
        return [item]
    sides = zip(completions, (True, False), strict=True)
    return [replace(item, completions=(ids,), desirable=good, outcome=1.0) for ids, good in sides]


def outcome(example: Example, settings: RowSettings) -> float:
    """P(chosen ≻ rejected) = σ(scale · (score_chosen − score_rejected)) with
    ``--soft_label_scale``, else 1."""
    if settings.soft_label_scale is None or example.scores is None:
        return 1.0
    chosen, rejected = (settings.soft_label_scale * score for score in example.scores)
    return preference_probability(chosen, rejected).item()
