"""Opens what the settings of a text command name: rows, tokenised; by default the bundled model and
reviews."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from accelerate import Accelerator
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from diffdpo.data.bundled import bundled
from diffdpo.data.columns import Table, lacking, listed, renamed, selected
from diffdpo.data.places import Place
from diffdpo.data.source import open_dataset
from diffdpo.data.stream_settings import IN_MEMORY
from diffdpo.data.streams.table import StreamTable
from diffdpo.data.text import TextFormat
from diffdpo.data.text.registry import registered
from diffdpo.errors import UserError, short
from diffdpo.text.bundled import MODEL, PAIRS
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.flags.sources import Source
from diffdpo.text.flags.table_settings import TextTableSettings
from diffdpo.text.pair_settings import TextPairSettings
from diffdpo.text.reading.mixed import MixedTexts
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.reading.streamed import StreamedTexts
from diffdpo.text.reading.streamed_mixture import StreamedMixture
from diffdpo.text.settings import TextSettings
from diffdpo.text.tokens.row_reader import RowSettings
from diffdpo.text.tokens.tokenise import Store
from diffdpo.text.vision.cells import column_of
from diffdpo.text.vision.rows import Pictured, PictureRows
from diffdpo.text.vision.streamed import StreamedPictures
from diffdpo.text.vision.words import Eyes

MIXED_PICTURES = "--dataset_name: data sets with pictures are not mixed; make one data set of them"
Settings = TypeVar("Settings", TextSettings, EvaluateTextSettings)


def with_bundled_reviews(settings: Settings) -> Settings:
    """The settings with the bundled model and its reviews where neither is named."""
    listed_ones = isinstance(settings, TextSettings) and settings.datasets
    if settings.model_name_or_path or settings.dataset_name or listed_ones:
        return settings
    pairs = bundled(PAIRS)
    data: Any = [pairs] if isinstance(settings, TextSettings) else pairs
    return replace(settings, model_name_or_path=bundled(MODEL), dataset_name=data)


@dataclass(frozen=True)
class InMemory:
    """Data sets of a program, in place of those that settings name; held-out ones by name, '' of
    one that has none."""

    rows: Dataset | None = None
    held_out: Mapping[str, Dataset] = field(default_factory=dict)


@dataclass(frozen=True)
class Opener:
    """Opens the data sets of a run; its processes share the work of tokenising them."""

    settings: TextSettings
    tokenizer: PreTrainedTokenizerBase
    row_settings: RowSettings
    accelerator: Accelerator
    eyes: Eyes | None = None  # read the pictures of an image–text model

    @property
    def quiet(self) -> bool:
        """Whether this process shows nothing."""
        return not self.accelerator.is_local_main_process

    def read(self, source: Source, flag: str, dataset: Dataset | None = None) -> TextRows:
        """The rows of a data set, or of one in memory in its place; ``flag`` names the split.

        Raises UserError where they cannot be had, with the data set's name where it is one of
        several.
        """
        with naming(source):
            return self.opened(source, flag, dataset)

    def opened(self, source: Source, flag: str, dataset: Dataset | None) -> TextRows:
        """The rows of a data set; those with pictures where the model reads these."""
        entry, settings, place = None, self.settings, Place.of(self.settings.media_dir)
        if dataset is None:
            own = replace(settings, dataset_config=source.config, dataset_columns=source.columns)
            dataset, entry = open_table(source.name, source.split, own, flag)
            place = place_of(source.name, settings)
        else:
            dataset = arranged(dataset, settings)
        rules, processes = replace(self.row_settings, registered=entry), settings.dataset_num_proc
        store = Store(settings.precompute_dir, self.accelerator)
        return rows_of(
            dataset, self.tokenizer, rules, self.eyes, place, self.quiet, processes, store
        )

    def training(self, dataset: Dataset | None) -> TextRows:
        """The rows to train on, mixed where several data sets are named."""
        settings, flag = self.settings, "--dataset_train_split"
        if settings.streaming:
            return self.streamed(dataset)
        if dataset is not None or not settings.is_mixed:
            return self.read(settings.sources[0], flag, dataset)
        sources = settings.sources
        parts = [self.read(source, flag) for source in sources]
        check_unmixed(parts)
        return MixedTexts(parts, labels_of(settings), *settings.mixing, settings.seed)

    def streamed(self, in_memory: Dataset | None) -> StreamedTexts:
        """The rows of the shards that the settings name. Raises UserError where there are others
        in memory in their place."""
        settings = self.settings
        if in_memory is not None:
            raise UserError(IN_MEMORY)
        parts = [self.shards(source) for source in settings.sources]
        if not settings.is_mixed:
            return parts[0]
        check_unmixed(parts)
        return StreamedMixture(parts, labels_of(settings), *settings.mixing, settings.seed)

    def shards(self, source: Source) -> StreamedTexts:
        """The rows of a data set's shards; those with pictures where the model reads these."""
        settings, flag = self.settings, "--dataset_train_split"
        stream = StreamTable.open(
            source.name,
            source.split,
            source.config,
            flag,
            settings.precompute_dir,
            settings.buffer_size,
            self.quiet,
        )
        with naming(source):
            table = arranged(stream, replace(settings, dataset_columns=source.columns))
            if self.eyes and (column := column_of(table.column_names)):
                find = place_of(source.name, settings).file
                return StreamedPictures(
                    table, self.tokenizer, self.row_settings, self.eyes(), column, find
                )
            return StreamedTexts(table, self.tokenizer, self.row_settings)

    def held_out(self, given: Mapping[str, Dataset]) -> dict[str, TextRows]:
        """The rows to measure on, by name; '' of one that has none."""
        flag = "--dataset_test_split"
        sources = {source.label: source for source in self.settings.held_out_sources}
        if not given:
            return {label: self.read(source, flag) for label, source in sources.items()}
        return {
            label: self.read(Source(label, "", label=label), flag, dataset)
            for label, dataset in given.items()
        }


@contextmanager
def naming(source: Source) -> Iterator[None]:
    """Names a data set, where it is one of several, in the lines of what is wrong with it."""
    try:
        yield
    except UserError as error:
        if not source.label:
            raise
        mistakes = [line.removeprefix("data: ") for line in error.mistakes]
        raise UserError(*(f"data {short(source.label)}: {line}" for line in mistakes)) from error


def labels_of(settings: TextSettings) -> list[str]:
    """What lines call the data sets to train on."""
    return [source.label or source.name for source in settings.sources]


def rows_of(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    rules: RowSettings,
    eyes: Eyes | None,
    place: Place,
    quiet: bool = True,
    processes: int | None = None,
    store: Store | None = None,
) -> TextRows:
    """The rows of a data set, tokenised; with the pictures that lie in ``place`` where they have
    any and the model reads these."""
    entry = rules.registered
    if eyes and (column := column_of(dataset.column_names, entry and entry[1])):
        return PictureRows(
            dataset, tokenizer, rules, eyes(), column, place.file, quiet, processes, store
        )
    return TextRows(dataset, tokenizer, rules, quiet, processes, store)


def place_of(name: str, settings: TextSettings | EvaluateTextSettings) -> Place:
    """Where the pictures of the data set ``name`` lie."""
    return Place.of(settings.media_dir or source_of(name, settings), settings.cache_dir)


def open_training_rows(
    settings: TextSettings,
    tokenizer: PreTrainedTokenizerBase,
    paired: bool,
    accelerator: Accelerator,
    in_memory: InMemory,
    eyes: Eyes | None,
) -> tuple[TextRows, dict[str, TextRows]]:
    """The rows to train on and, under ``--eval_strategy``, those to measure on by name, tokenised
    and checked. A data set ``in_memory`` takes the place of the one that is named. ``eyes`` read
    the pictures of an image–text model.

    Raises UserError where all rows to measure on are trained on.
    """
    row_settings = RowSettings(
        settings.max_length,
        paired,
        settings.soft_label_scale,
        settings.min_score_margin,
        settings.data_format,
        settings.truncation_mode,
        settings.chat_template_kwargs or {},
        in_parts=eyes is not None,
    )
    opener = Opener(settings, tokenizer, row_settings, accelerator, eyes)
    rows, held_out = opener.training(in_memory.rows), dict[str, TextRows]()
    if settings.eval_fraction is not None:
        held_out = {"": rows.hold_out(settings.eval_fraction, settings.seed)}
    rows.limit(settings.max_train_samples, settings.seed)
    if settings.eval_strategy != "no" and not held_out:
        held_out = opener.held_out(in_memory.held_out)
        check_new(rows, held_out, settings)
    return rows, held_out


def check_new(rows: TextRows, held_out: Mapping[str, TextRows], settings: TextSettings) -> None:
    """Raises UserError where a whole set of rows to measure on is trained on."""
    if settings.streaming:
        return
    names = {source.label: source.name for source in settings.held_out_sources}
    for label, other in held_out.items():
        if other.is_subset_of(rows):
            raise UserError(
                f"--eval_strategy: all rows of {names.get(label, label)} are trained on; name"
                " others with --eval_dataset_name"
            )


def check_unmixed(parts: Sequence[TextRows]) -> None:
    """Raises UserError where one of several data sets has pictures."""
    if any(isinstance(part, Pictured) for part in parts):
        raise UserError(MIXED_PICTURES)


def source_of(name: str, settings: TextTableSettings) -> str:
    """The file, folder or hub id of the data set ``name``, which may be a registry's."""
    return registered(settings.dataset_info, name).source if settings.dataset_info else name


def arranged(dataset: Table, settings: TextTableSettings) -> Table:
    """The data set with the columns that flags choose, under the names that formats know."""
    return renamed(selected(dataset, settings.dataset_columns), settings.columns)


def open_table(
    name: str,
    split: str,
    settings: TextSettings | EvaluateTextSettings | TextPairSettings,
    flag: str,
) -> tuple[Dataset, tuple[str, TextFormat] | None]:
    """The data set ``name`` with its columns under the names that formats know; or that of the
    registry ``--dataset_info``, with the name and format of its entry. ``flag`` names the split.

    Raises UserError where the data lack a column that a flag or the entry names.
    """
    if not settings.dataset_info:
        rows = open_dataset(name, split, settings.dataset_config, settings.cache_dir, flag)
        return arranged(rows, settings), None
    entry = registered(str(settings.dataset_info), name)
    subset = entry.subset or settings.dataset_config
    dataset = open_dataset(entry.source, entry.split or split, subset, settings.cache_dir, flag)
    if missing := lacking(dataset.column_names, entry.format.columns):
        raise UserError(
            f"--dataset_info {settings.dataset_info}, {name}: the data have no column {missing};"
            f" there are {listed(dataset.column_names)}"
        )
    return dataset, (f"{name} of {settings.dataset_info}", entry.format)
