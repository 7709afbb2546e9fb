"""One record of preference data -> tokens within the length limit, or the reason for none.

Nothing here knows the run: a reader can be sent to other processes, which read the rows of a table
ahead or those of a stream as they come.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from diffdpo.data.text import TEXT_FORMATS, TextFormat, as_format
from diffdpo.data.text.messages import BadRow, Text, contents, squeezed
from diffdpo.data.text.record import Record, as_bad_row
from diffdpo.data.text.schema import Example
from diffdpo.errors import UserError
from diffdpo.extensions import named_row
from diffdpo.preference import preference_probability
from diffdpo.text.tokens.chat import Rendered, left_out, render
from diffdpo.text.tokens.encode import Encoded, encode_all
from diffdpo.text.tokens.truncate import PromptTooLong, truncate
from diffdpo.text.vision.pictures import Pictures
from diffdpo.text.vision.places import as_parts

MARKS = 8  # tokens that a template may put round an answer, at most
# Letters of a prompt from which on a completion does not begin with the same words by chance.
NO_CHANCE = 8


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
    look: bytes = b""  # a digest of the pictures in the prompt; empty without any
    pictures: Pictures | None = None  # what a processor made of them, where the item is trained on


@dataclass(frozen=True)
class RowSettings:
    """The settings that decide how rows become items."""

    max_length: int | None = None
    paired: bool = True  # False: pairs are taken apart into two labelled completions
    soft_label_scale: float | None = None
    min_score_margin: float | None = None
    data_format: str | None = None  # by name; None: told by the columns
    truncation_mode: str = "keep_start"
    # For all rows; those of a row hold before them.
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    in_parts: bool = False  # contents are lists of parts, as image–text models' templates take them
    # The format of an entry of LLaMA-Factory's registry, in place of one of the table.
    registered: tuple[str, TextFormat] | None = None


@dataclass
class RowResult:
    """What became of a row: its tokens, or why it has none, and what is to be said of it."""

    row: int  # of the data set
    encoded: Encoded | None = None
    outcome: float = 1.0  # P(chosen ≻ rejected)
    desirable: bool | None = None  # the label of a single completion; None for a pair
    bad: str | None = None  # why it cannot be used
    close: bool = False  # left out by --min_score_margin
    too_long: int = 0  # tokens of a prompt that alone fills --max_length; 0 where none does
    prompts_cut: int = 0
    completions_cut: int = 0
    endless: bool = False  # plain text without an end, since the tokenizer has no EOS
    unprompted: bool = False  # usable, with an empty prompt
    repeated: bool = False  # usable, with the prompt at the beginning of every completion as well
    contrary: bool = False  # usable, with the higher score at the rejected side
    left_out: str | None = None  # a text that the chat template did not write
    look: bytes | None = None  # a digest of the pictures in the prompt
    seen: set[str] = field(default_factory=set)  # columns that were read

    def items(self, paired: bool) -> list[TextItem]:
        """The items of the row, none where it cannot be used; two of a pair that a loss on single
        completions takes apart."""
        if self.encoded is None:
            return []
        # Four bytes a token: a list of Python's integers takes nine times as much.
        prompt = array("i", self.encoded.prompt)
        completions = [array("i", ids) for ids in self.encoded.completions]
        return make_items(self.row, prompt, completions, self.outcome, self.desirable, paired)


def make_items(
    row: int,
    prompt: Sequence[int],
    completions: Sequence[Sequence[int]],
    outcome: float,
    desirable: bool | None,
    paired: bool,
) -> list[TextItem]:
    """The items of a row: one for a pair or a labelled completion, two for a pair where the loss
    judges single completions."""
    if paired or desirable is not None:
        return [TextItem(row, prompt, tuple(completions), outcome, desirable)]
    sides = zip(completions, (True, False), strict=True)
    return [TextItem(row, prompt, (ids,), desirable=good) for ids, good in sides]


@dataclass(frozen=True)
class RowReader:
    """Reads records of the format ``name``: one of the table's, or that of ``settings.registered``.

    It can be pickled, and holds no state.
    """

    tokenizer: PreTrainedTokenizerBase
    settings: RowSettings
    name: str

    # Up to so many rows are tokenised at every start and kept in memory: that takes seconds, less
    # than to load what it is done with, and a folder for every dozen rows would be litter.
    kept_in_memory: ClassVar[int] = 4096

    def facts(self, dataset: Dataset) -> dict[str, str]:
        """What tokens depend on beside what every reader reads, by name."""
        return {}

    @property
    def format(self) -> TextFormat:
        """How a record is read."""
        if self.settings.registered:
            return self.settings.registered[1]
        # By its name: functions of a user's file cannot be sent to another process.
        return named_row(self.name, TEXT_FORMATS, "data_format", as_format)

    def read(self, row: int, record: Mapping[str, Any]) -> RowResult:
        """What becomes of one record, row number ``row`` of its data set.

        Raises UserError where the data hold something that is not read and would be missed, or
        messages meet no chat template.
        """
        return self.read_all([(row, record)])[0]

    def read_all(self, records: Sequence[tuple[int, Mapping[str, Any]]]) -> list[RowResult]:
        """What becomes of (row, record), tokenised together. Raises UserError as ``read`` does."""
        results, examples, texts = [], [], []
        for row, record in records:
            result = RowResult(row)
            results.append(result)
            if (rendered := self.rendered(result, record)) is not None:
                examples.append((result, rendered[0]))
                texts.append(rendered[1])
        for (result, example), whole in zip(
            examples, encode_all(texts, self.tokenizer), strict=True
        ):
            try:
                if isinstance(whole, Exception):
                    raise whole
                encoded = self.fitted(result, whole)
                result.outcome = outcome(example, self.settings)
                result.desirable, result.encoded = example.desirable, encoded
                result.unprompted, result.repeated = is_empty(example.prompt), repeats(example)
                result.contrary = bool(example.scores and example.scores[0] < example.scores[1])
            except PromptTooLong as reason:
                result.too_long = reason.tokens
            # Whatever a text makes of the tokenizer.
            except Exception as error:
                result.bad = str(as_bad_row(error))
        return results

    def rendered(
        self, result: RowResult, record: Mapping[str, Any]
    ) -> tuple[Example, Rendered] | None:
        """A record in the one schema and as the text that the model reads; None, with the reason in
        ``result``, where it is left out."""
        try:
            row = self.opened(record)
            result.seen = row.seen
            example = self.example(row)
            if not self.margin_suffices(example):
                result.close = True
                return None
            rendered = self.written(result, row, example)
            result.left_out = left_out(example, rendered)
            result.endless = not rendered.templated and self.tokenizer.eos_token_id is None
            return example, rendered
        except UserError:
            raise
        # Whatever a row's content makes of a reader or the chat template.
        except Exception as error:
            result.bad = str(as_bad_row(error))
            return None

    def opened(self, record: Mapping[str, Any]) -> Record:
        """A record as formats read it."""
        return Record(dict(record))

    def written(self, result: RowResult, record: Record, example: Example) -> Rendered:
        """The text of an example of a ``record``."""
        return render(example, self.tokenizer, as_parts if self.settings.in_parts else list)

    def example(self, record: Record) -> Example:
        """A row in the one schema.

        Raises UserError where the data hold something that is not read and would be missed.
        """
        record.check_media()
        form = self.format
        example = form.read(record)
        if form.guess and self.settings.data_format is None:
            record.check_prompt(example.prompt, self.name)
        options = {**self.settings.chat_template_kwargs, **example.template_options}
        return replace(example, template_options=options)

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

    def fitted(self, result: RowResult, whole: Encoded) -> Encoded:
        """The tokens of an example within the length limit.

        Raises BadRow where a completion has no text as the model sees it, or both are the same.
        """
        limit, mode = self.settings.max_length, self.settings.truncation_mode
        check_sides(whole, self.tokenizer, "as the chat template writes them")
        encoded = truncate(whole, limit, self.tokenizer.bos_token_id, mode)
        check_sides(encoded, self.tokenizer, f"within --max_length {limit}")
        result.prompts_cut = int(len(encoded.prompt) < len(whole.prompt))
        sides = zip(encoded.completions, whole.completions, strict=True)
        result.completions_cut = sum(len(kept) < len(all_of) for kept, all_of in sides)
        return encoded


def is_empty(prompt: Text) -> bool:
    """Whether a prompt says nothing, and calls no tool."""
    said = prompt if isinstance(prompt, str) else contents(prompt)
    return not said.strip() and not any("tool_calls" in m for m in prompt if isinstance(m, dict))


def repeats(example: Example) -> bool:
    """Whether every completion begins with the prompt, or its last message, once more."""
    prompt = example.prompt
    said = (prompt if isinstance(prompt, str) else contents(prompt[-1:])).strip()
    sides = (side if isinstance(side, str) else contents(side[:1]) for side in example.completions)
    return len(squeezed(said)) >= NO_CHANCE and all(
        side.lstrip().startswith(said) for side in sides
    )


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


def outcome(example: Example, settings: RowSettings) -> float:
    """P(chosen ≻ rejected) = σ(scale · (score_chosen − score_rejected)) with
    ``--soft_label_scale``, else 1."""
    if settings.soft_label_scale is None or example.scores is None:
        return 1.0
    chosen, rejected = (settings.soft_label_scale * score for score in example.scores)
    return preference_probability(chosen, rejected).item()
