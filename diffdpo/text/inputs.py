"""Opens what the settings of a text command name: rows, tokenised; by default the bundled model and
reviews."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

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
from diffdpo.errors import UserError
from diffdpo.text.bundled import MODEL, PAIRS
from diffdpo.text.data_settings import TextTableSettings
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.pair_settings import TextPairSettings
from diffdpo.text.row_reader import RowSettings
from diffdpo.text.rows import TextRows
from diffdpo.text.settings import TextSettings
from diffdpo.text.streamed import StreamedTexts
from diffdpo.text.tokenise import Store
from diffdpo.text.vision.cells import column_of
from diffdpo.text.vision.rows import PictureRows
from diffdpo.text.vision.words import Eyes

Settings = TypeVar("Settings", TextSettings, EvaluateTextSettings)


def with_bundled_reviews(settings: Settings) -> Settings:
    """The settings with the bundled model and its reviews where neither is named."""
    if settings.model_name_or_path or settings.dataset_name:
        return settings
    return replace(settings, model_name_or_path=bundled(MODEL), dataset_name=bundled(PAIRS))


def open_training_rows(
    settings: TextSettings,
    tokenizer: PreTrainedTokenizerBase,
    paired: bool,
    accelerator: Accelerator,
    in_memory: tuple[Dataset | None, Dataset | None] = (None, None),
    eyes: Eyes | None = None,
) -> tuple[TextRows, TextRows | None]:
    """The rows to train on and, under ``--eval_strategy``, those to measure on, tokenised and
    checked; the processes of the run share the work. A data set ``in_memory`` takes the place of
    the one that is named. ``eyes`` read the pictures of an image–text model.

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

    def read(name: str, split: str, dataset: Dataset | None, flag: str) -> TextRows:
        entry, place = None, Place.of(settings.media_dir)
        if dataset is None:
            dataset, entry = open_table(name, split, settings, flag)
            place = Place.of(settings.media_dir or source_of(name, settings), settings.cache_dir)
        else:
            dataset = arranged(dataset, settings)
        own, quiet = replace(row_settings, registered=entry), not accelerator.is_local_main_process
        if eyes and (column := column_of(dataset.column_names, entry and entry[1])):
            return PictureRows(
                dataset,
                tokenizer,
                own,
                eyes(),
                column,
                place.file,
                quiet,
                settings.dataset_num_proc,
            )
        return TextRows(
            dataset,
            tokenizer,
            own,
            quiet=quiet,
            processes=settings.dataset_num_proc,
            store=Store(settings.precompute_dir, accelerator),
        )

    name, held_out = str(settings.dataset_name), None
    if settings.streaming:
        quiet = not accelerator.is_local_main_process
        rows: TextRows = open_streamed(settings, tokenizer, row_settings, in_memory[0], quiet)
    else:
        rows = read(name, settings.dataset_train_split, in_memory[0], "--dataset_train_split")
    if settings.eval_fraction is not None:
        held_out = rows.hold_out(settings.eval_fraction, settings.seed)
    rows.limit(settings.max_train_samples, settings.seed)
    if settings.eval_strategy != "no" and held_out is None:
        name = settings.eval_dataset_name or name
        held_out = read(name, settings.dataset_test_split, in_memory[1], "--dataset_test_split")
        if not settings.streaming and held_out.is_subset_of(rows):
            raise UserError(
                f"--eval_strategy: all rows of {name} are trained on; name others with"
                " --eval_dataset_name"
            )
    return rows, held_out


def open_streamed(
    settings: TextSettings,
    tokenizer: PreTrainedTokenizerBase,
    row_settings: RowSettings,
    in_memory: Dataset | None,
    quiet: bool,
) -> StreamedTexts:
    """The rows of the shards that the settings name. Raises UserError where there are others in
    memory in their place."""
    if in_memory is not None:
        raise UserError(IN_MEMORY)
    stream = StreamTable.open(
        str(settings.dataset_name),
        settings.dataset_train_split,
        settings.dataset_config,
        "--dataset_train_split",
        settings.precompute_dir,
        settings.buffer_size,
        quiet,
    )
    return StreamedTexts(arranged(stream, settings), tokenizer, row_settings)


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
    flag: str | None = None,
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
