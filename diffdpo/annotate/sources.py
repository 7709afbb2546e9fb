"""Opens what the command names: a data set of pictures, clips or texts, or pictures of runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from diffdpo.annotate.pairs import Pairs, PicturePairs, TextPairs
from diffdpo.annotate.runs import RunPairs, all_samples
from diffdpo.annotate.settings import AnnotateSettings
from diffdpo.data.cells import BadImage, Find, unpack
from diffdpo.data.columns import check_given, renamed
from diffdpo.data.image_formats import IMAGE_FORMATS, ImageFormat, after
from diffdpo.data.places import Place
from diffdpo.data.source import FOLDER, open_with_folders
from diffdpo.data.splits import DEFAULT
from diffdpo.data.text import TEXT_FORMATS, TextFormat
from diffdpo.engine.console import quiet_libraries
from diffdpo.extensions import is_own, load_object
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.pictures.stored import StoredImages
from diffdpo.image.reading.pairs import image_pairs

MESSAGE = {"role", "from", "content", "value"}  # fields of a message
CHOSEN = {"chosen", "rejected"}
LOOKED_AT = 20  # first rows, where the columns alone do not tell pictures from texts


def open_pairs(settings: AnnotateSettings) -> Pairs:
    """The pairs that the settings name. Raises UserError where they cannot be read."""
    if len(settings.names) > 1 or all(settings.holds_samples):
        folders = [Path(name) for name in settings.names]
        if not all(settings.holds_samples):
            from diffdpo.annotate.sampling import sampled  # heavy, and seldom needed

            quiet_libraries()
            folders = [sampled(settings)]
        return RunPairs(all_samples(folders))
    (name,) = settings.names
    split, config, cache = (
        settings.dataset_split_name or DEFAULT,
        settings.dataset_config_name,
        settings.cache_dir,
    )
    dataset = open_with_folders(name, split, config, cache, "--split")
    what, place = f"{name}, split {split}", Place.of(name, cache)
    if holds_texts(dataset, settings.columns, place, settings.data_format):
        rows = renamed(dataset, settings.columns)
        return TextPairs(rows, f"text pairs of {what}", settings.data_format)
    framing = FrameSettings(settings.seed, 0, ties="soft")
    pairs = image_pairs(dataset, framing, name, settings.columns, settings.data_format, cache)
    return PicturePairs(dataset, pairs, f"image pairs of {what}")


def holds_texts(
    dataset: Dataset, given: Mapping[str, str | None], place: Place, requested: str | None
) -> bool:
    """Whether a data set holds texts: told by its columns and, where pictures and texts both have
    these, by what stands in the first rows."""
    if requested is not None:
        own = is_own(requested) and isinstance(load_object(requested, "data_format"), TextFormat)
        return own or (requested in TEXT_FORMATS and requested not in IMAGE_FORMATS)
    columns = [column for column in dataset.column_names if column != FOLDER]
    check_given(columns, given)
    fitting = [row for row in IMAGE_FORMATS.values() if fits(row, columns, given)]
    if not fitting:
        return not any("binary" in str(f) or "Image" in str(f) for f in dataset.features.values())
    if not set(renamed(dataset, given).column_names) >= CHOSEN:
        return False  # no format of texts has these columns
    column = given.get("chosen") or fitting[0].first
    stored = StoredImages(dataset, {column: column}, place)
    (cells,) = stored.sides
    rows = range(min(LOOKED_AT, len(dataset)))
    return all(is_text(cells.cell(row), stored.find(row)) for row in rows)


def fits(row: ImageFormat, columns: list[str], given: Mapping[str, str | None]) -> bool:
    """Whether a data set has the columns of a format."""
    return set(row.columns) <= set(after(columns, given, row))


def is_text(cell: Any, find: Find) -> bool:
    """Whether a cell holds text that names no file, or the messages of a conversation."""
    if isinstance(cell, str):
        try:
            unpack(cell, find)
        except BadImage:
            return True
        return False
    message = cell[0] if isinstance(cell, list) and cell else cell
    return isinstance(message, dict) and bool(MESSAGE & set(message))
