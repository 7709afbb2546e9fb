"""Pictures as rewards judge them: those of pairs, each once, or those of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from datasets import Features, Value
from PIL import Image
from pyarrow import parquet

from diffdpo.batched import batched
from diffdpo.cache.keys import digest
from diffdpo.data.cells import unpack
from diffdpo.data.columns import listed
from diffdpo.data.decode import Limits, open_image
from diffdpo.data.places import Place
from diffdpo.data.prompts import column_of, is_text, read_all
from diffdpo.data.side_folders import PICTURES, caption_beside, pictures_in
from diffdpo.data.source import open_dataset
from diffdpo.engine.console import say
from diffdpo.engine.digests import file_digest
from diffdpo.engine.files import atomic_file
from diffdpo.errors import UserError, short
from diffdpo.image.caching.cache_keys import images_digest
from diffdpo.image.reading.captions import prompts_of
from diffdpo.image.reading.pairs import ImagePairs
from diffdpo.image.sampling.sample import as_png

AT_ONCE = 32  # pairs in memory while they are written
CAPTIONS = ("metadata.jsonl", "metadata.csv")
NAMES = ("file_name", "image")  # columns of a caption file that name the picture


class PairPictures:
    """The pictures of pairs. Of a ranking each is there once, however many pairs it is in.

    ``number_P2`` are the numbers of the pictures of every usable pair, first side first.
    """

    def __init__(self, pairs: ImagePairs) -> None:
        self.pairs, ranked = pairs, pairs.ranked
        if ranked is None:
            both = np.repeat(pairs.rows[:, None], 2, axis=1)
            cells = [(side, int(row)) for row in pairs.rows for side in (0, 1)]
            self.number_P2 = np.arange(2 * len(both)).reshape(-1, 2)
        else:
            both = ranked.sides_P2[pairs.rows]
            used, place = np.unique(both, return_inverse=True)
            cells = [(0, int(number)) for number in used]
            self.number_P2 = place.reshape(-1, 2)
        self.cells: list[tuple[int, int]] = cells  # side, and number of the cell there
        prompt_of = {
            int(number): pairs.captions[row]
            for row, numbers in zip(pairs.rows, self.number_P2, strict=True)
            for number in numbers
        }
        self.prompts = [prompt_of[number] for number in range(len(cells))]

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def digest(self) -> str:
        """Of pictures and prompts."""
        return digest(images_digest(self.pairs), *self.prompts)

    def named(self, number: int) -> str:
        """'picture 1 of row 7'."""
        side, cell = self.cells[number]
        return (
            f"picture {side + 1} of row {cell}" if self.pairs.ranked is None else f"picture {cell}"
        )

    def read(self, number: int) -> tuple[Image.Image, str]:
        """A picture at its full size, and its prompt. Raises BadImage."""
        limits = self.pairs.framing.limits
        picture = self.pairs.stored.image(
            *self.cells[number], lambda cell, find: open_image(cell, None, limits, find)
        )
        return picture, self.prompts[number]

    def stored(self, number: int) -> bytes:
        """The file of a picture as it is. Raises BadImage."""
        content = self.pairs.stored.image(*self.cells[number], unpack)
        if isinstance(content, Path):
            return content.read_bytes()
        return content if isinstance(content, bytes) else as_png(content)


@dataclass(frozen=True)
class FolderPictures:
    """Picture files with their captions."""

    folder: Path
    files: list[Path]
    prompts: list[str]
    limits: Limits

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def digest(self) -> str:
        """Of contents and prompts."""
        return digest(*map(file_digest, self.files), *self.prompts)

    def named(self, number: int) -> str:
        """The name of a file below the folder."""
        return str(self.files[number].relative_to(self.folder))

    def read(self, number: int) -> tuple[Image.Image, str]:
        """A picture at its full size, and its prompt. Raises BadImage."""
        find = Place.of(str(self.folder)).file
        return open_image(self.named(number), None, self.limits, find), self.prompts[number]


def folder_pictures(name: str, prompts: str | None, limits: Limits) -> FolderPictures:
    """The pictures at and below a folder, in the order of their names.

    Their captions are the lines of the file ``prompts``, or those of a metadata file in the folder,
    or of .txt files beside the pictures; '' where there are none.

    Raises UserError where there is no picture, or where captions are not as many as these.
    """
    folder = Path(name)
    files = pictures_in(folder)
    if not files:
        raise UserError(f"--images {name}: no {', '.join(PICTURES)} files there")
    return FolderPictures(folder, files, captions_of(folder, files, prompts), limits)


def captions_of(folder: Path, files: Sequence[Path], prompts: str | None) -> list[str]:
    """The caption of every file; see ``folder_pictures``."""
    if prompts is not None:
        texts = [text if is_text(text) else "" for text in read_all(prompts, "train", None, None)]
        if len(texts) != len(files):
            raise UserError(
                f"--prompts {prompts}: {len(texts):,} prompts for {len(files):,} pictures; one for"
                " each is needed, in the order of their names"
            )
        return [text.strip() for text in texts]
    for table in CAPTIONS:
        if (folder / table).is_file():
            return from_table(folder / table, [str(file.relative_to(folder)) for file in files])
    return [caption_beside(file) for file in files]


def from_table(path: Path, files: Sequence[str]) -> list[str]:
    """The captions in a metadata file, by the names of its pictures."""
    rows = open_dataset(str(path), "train")
    name = next((column for column in NAMES if column in rows.column_names), None)
    if name is None:
        raise UserError(
            f"{path}: no column {' or '.join(NAMES)}; there are {listed(rows.column_names)}"
        )
    column, named = column_of(str(path), rows.column_names), rows[name][:]
    captions = dict(zip(named, prompts_of(rows[column][:], column, seed=0), strict=True))
    if len(captions) < len(named):
        twice = next(file for file in named if named.count(file) > 1)
        raise UserError(f"{path}: several captions for {short(twice)}; keep one")
    if others := [str(file) for file in captions if file not in files]:
        say(f"note         {path}: {len(others):,} names of no picture ({short(others[0])})")
    return [captions.get(file, "").strip() for file in files]


def write_pairs(
    path: Path, pictures: PairPictures, good: np.ndarray, scores: Mapping[str, np.ndarray]
) -> None:
    """Write the pairs ``good`` in Pick-a-Pic's columns with those of their scores, NAME_0 and
    NAME_1; ``AT_ONCE`` of them are in memory."""
    columns: dict[str, Any] = {"caption": Value("string")}
    for side in (0, 1):
        columns |= {f"jpg_{side}": Value("binary"), f"label_{side}": Value("float64")}
        columns |= {f"{name}_{side}": Value("float64") for name in scores}
    schema = Features(columns).arrow_schema

    def row(at: int) -> dict[str, Any]:
        pair, numbers = int(pictures.pairs.rows[at]), pictures.number_P2[at]
        label = float(pictures.pairs.first_wins[pair])
        own: dict[str, Any] = {"caption": pictures.prompts[numbers[0]]}
        for side, (number, share) in enumerate(zip(numbers, (label, 1 - label), strict=True)):
            own |= {f"jpg_{side}": pictures.stored(int(number)), f"label_{side}": share}
            own |= {f"{name}_{side}": float(score[number]) for name, score in scores.items()}
        return own

    with atomic_file(path) as draft, parquet.ParquetWriter(draft, schema) as file:
        for some in batched(good, AT_ONCE):
            rows = [row(at) for at in some.tolist()]
            file.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
