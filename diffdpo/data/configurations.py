"""The configurations of a data set in a folder: those that its README.md declares, or a folder for
each."""

from __future__ import annotations

from pathlib import Path

import datasets
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from diffdpo.data.splits import data_files, with_rows
from diffdpo.errors import UserError, nearest, short

DEFAULT = "default"  # what the hub calls the one configuration of data that declare none


def configured(folder: Path, config: str | None) -> dict[str, list[Path]] | None:
    """The files of each split of the configuration ``config``, as README.md declares them; None
    where it declares nothing.

    Raises UserError where several are declared and none is named, or there is no such one.
    """
    names = declared(folder)
    if not names:
        check_folder(folder, config)
        return None
    if config is None and len(names) > 1 and DEFAULT not in names:
        raise UserError(
            f"data set {folder}: has the configurations {short(', '.join(names), 200)}; name one"
        )
    if config is not None and config not in names:
        raise no_such(folder, config, names)
    # The library's own reading of the patterns; nothing is loaded.
    builder = datasets.load_dataset_builder(str(folder), config)
    found = builder.config.data_files or {}
    return {str(split): with_rows(map(Path, files)) for split, files in found.items()}


def declared(folder: Path) -> list[str]:
    """The names of the configurations in the head of README.md. Empty where there are none."""
    card = folder / "README.md"
    try:
        if not card.is_file() or not card.read_text("utf-8").startswith("---"):
            return []
        return list(MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data))
    except Exception as error:  # a head that is no YAML, or not of the form the hub asks for
        raise UserError(f"data set {folder}: README.md: {short(error)}") from error


def folder_of(folder: Path, config: str | None) -> Path:
    """Where the files of a configuration lie in a folder that declares none."""
    bare = config is None or (config == DEFAULT and not (folder / DEFAULT).is_dir())
    return folder if bare else folder / str(config)


def check_folder(folder: Path, config: str | None) -> None:
    """Raises UserError where no folder has the name of the configuration."""
    if config in (None, DEFAULT) and folder_of(folder, config) == folder:
        return
    places = [file.relative_to(folder).parts for file in data_files(folder)]
    names = sorted({parts[0] for parts in places if len(parts) > 1})
    if config not in names:
        raise no_such(folder, str(config), names)


def no_such(folder: Path, config: str, names: list[str]) -> UserError:
    """The error for a configuration that is not there."""
    found = f"; found {short(', '.join(names), 200)}" if names else ""
    return UserError(
        f"data set {folder}: has no configuration {short(config)!r}{nearest(config, names)}{found}"
    )
