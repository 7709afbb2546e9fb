"""Text preferences as the engine reads them: every row is rendered, tokenised and cut to length
once; rows that cannot be used are counted and named."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from diffdpo.data.text import TextFormat, detect
from diffdpo.data.text.messages import BadRow
from diffdpo.data.text.record import Record, as_bad_row
from diffdpo.data.text.schema import Example
from diffdpo.draws import epoch_order
from diffdpo.engine.batches import Rows
from diffdpo.errors import UserError, short
from diffdpo.preference import preference_probability
from diffdpo.text.chat import left_out, render
from diffdpo.text.encode import Encoded, encode
from diffdpo.text.tally import Tally
from diffdpo.text.truncate import PromptTooLong, truncate

MARKS = 8  # tokens that a template may put round an answer, at most


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
    truncation_mode: str = "keep_start"
    # The format of an entry of LLaMA-Factory's registry, in place of one of the table.
    registered: tuple[str, TextFormat] | None = None


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
        name, self.format = settings.registered or detect(
            dataset.column_names, first_record(dataset), settings.data_format
        )
        check_scores(dataset.column_names, settings)
        self.tally = Tally(len(dataset), name)
        self.items: list[TextItem] = []
        seen: set[str] = set()
        for row in tqdm(
            range(len(dataset)), desc="tokenising", unit="row", disable=quiet, leave=False
        ):
            seen |= self.add(row, dataset)
        self.tally.unread = [name for name in dataset.column_names if name not in seen]
        self.check()

    def add(self, row: int, dataset: Dataset) -> set[str]:
        """Take in one row of the source, or note the reason why it cannot be used; returns the
        columns that were read."""
        record = Record({})
        try:
            record = Record(dataset[row])
            example = self.example(record)
            if self.margin_suffices(example):
                encoded = self.encode(example)
                self.items += make_items(row, example, encoded, self.settings)
                self.tally.unprompted += not example.prompt
            else:
                self.tally.close += 1
        except UserError:
            raise
        except PromptTooLong as reason:
            self.tally.too_long += 1
            self.tally.shortest = min(self.tally.shortest or reason.tokens, reason.tokens)
        # Whatever a row's content makes of a decoder, a reader, the chat template or the tokenizer.
        except Exception as error:
            self.tally.bad.append(f"row {row}: {as_bad_row(error)}")
        return record.seen

    def example(self, record: Record) -> Example:
        """A row in the one schema.

        Raises UserError where the data hold something that is not read and would be missed.
        """
        record.check_media()
        example = self.format.read(record)
        if self.format.guess and self.settings.data_format is None:
            record.check_prompt(example.prompt, self.tally.format)
        return example

    def encode(self, example: Example) -> Encoded:
        """The tokens of an example within the length limit.

        Raises BadRow where a completion has no text as the model sees it, or both are the same.
        """
        rendered = render(example, self.tokenizer)
        if missing := left_out(example, rendered):
            self.tally.left_out.append(missing)
        self.tally.endless += not rendered.templated and self.tokenizer.eos_token_id is None
        whole, limit = encode(rendered, self.tokenizer), self.settings.max_length
        check_sides(whole, self.tokenizer, "as the chat template writes them")
        mode, bos = self.settings.truncation_mode, self.tokenizer.bos_token_id
        encoded = truncate(whole, limit, bos, mode)
        check_sides(encoded, self.tokenizer, f"within --max_length {limit}")
        self.tally.prompts_cut += len(encoded.prompt) < len(whole.prompt)
        sides = zip(encoded.completions, whole.completions, strict=True)
        self.tally.completions_cut += sum(len(kept) < len(all_of) for kept, all_of in sides)
        return encoded

    def margin_suffices(self, example: Example) -> bool:
        """Whether the chosen score leads by ``--min_score_margin``.

        Raises BadRow where a setting reads the scores, and they are not both numbers.
        """
        least = self.settings.min_score_margin
        if example.desirable is None and example.scores is None and reads_scores(self.settings):
            raise BadRow("score_chosen and score_rejected are not both numbers")
        return (
            least is None
            or example.scores is None
            or example.scores[0] - example.scores[1] >= least
        )

    def check(self) -> None:
        """Raises UserError where too many rows are bad, none is left, most have no prompt, or the
        loss wants pairs and there are none."""
        tally = self.tally
        tally.check(len(self.items))
        if self.settings.data_format is None:
            tally.check_prompts()
        kinds = {item.desirable is None for item in self.items}
        if kinds != {self.settings.paired}:
            raise UserError(
                f"data: rows of format {tally.format!r} are single labelled items; take a loss"
                " like kto"
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


def first_record(dataset: Dataset) -> dict[str, Any]:
    """The first row that can be read. Raises UserError where there is none."""
    for row in range(len(dataset)):
        try:
            return dict(dataset[row])
        except Exception as error:  # text that is no UTF-8, a picture that cannot be decoded
            reason = error
    raise UserError(f"data: no row can be read ({short(reason)})")


def check_sides(encoded: Encoded, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raises BadRow where a completion is empty but for marks, or both sides are the same."""
    for ids in encoded.completions:
        # Only short ones can be empty, and to decode all of them would take time.
        if len(ids) <= MARKS and not str(tokenizer.decode(ids, skip_special_tokens=True)).strip():
            raise BadRow(f"a completion is empty {where}")
    if len(encoded.completions) == 2 and encoded.completions[0] == encoded.completions[1]:
        raise BadRow(f"chosen and rejected are the same {where}")


def reads_scores(settings: RowSettings) -> bool:
    """Whether a setting reads the scores of the rows."""
    return settings.soft_label_scale is not None or settings.min_score_margin is not None


def check_scores(columns: list[str], settings: RowSettings) -> None:
    """Raises UserError where a setting reads scores and the data have none."""
    missing = {"score_chosen", "score_rejected"} - set(columns)
    if missing and reads_scores(settings):
        flag = "soft_label_scale" if settings.soft_label_scale is not None else "min_score_margin"
        raise UserError(f"--{flag}: the data has no column {' and '.join(sorted(missing))}")


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
