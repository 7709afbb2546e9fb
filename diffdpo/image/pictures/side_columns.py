"""What a row may hold beside its pictures, prompt and label: scores, the sampler's seeds, masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from datasets import Dataset
from PIL import Image
from pyarrow import compute as arrow
from pyarrow import types
from torch import Tensor

from diffdpo.data.cells import BadImage
from diffdpo.data.columns import listed
from diffdpo.data.decode import Limits, open_image
from diffdpo.data.labels import column_of, numbers
from diffdpo.data.places import Place
from diffdpo.data.source import FOLDER
from diffdpo.errors import UserError, short
from diffdpo.image.pictures.pixels import Augmentation, CroppedImage, frame
from diffdpo.image.pictures.stored import StoredImages

SEEDS = ("seed_0", "seed_1")


@dataclass(frozen=True)
class SideSettings:
    """Which of these columns are read, by the flags that ask for them."""

    scores: str | None = None  # NAME_0 and NAME_1, or chosen_NAME and rejected_NAME
    gap_scale: float = 1.0
    noise: bool = False
    mask: str | None = None  # NAME for both pictures, or NAME_0 and NAME_1


@dataclass(frozen=True)
class Sides:
    """What the first and the second picture of a row have; None where it is not read."""

    gap: float | None = None  # score of the first minus that of the second, scaled
    seeds: tuple[int, int] | None = None
    masks: tuple[Tensor, Tensor] | None = None  # ``(H, W)`` in [0, 1]

    def swapped(self) -> Sides:
        """The same of the pair with its pictures exchanged."""
        return Sides(
            None if self.gap is None else -self.gap,
            self.seeds and self.seeds[::-1],
            self.masks and self.masks[::-1],
        )


NOTHING = Sides()


def check_alone(beside: SideSettings) -> None:
    """Raises UserError where columns are asked for that rankings do not have."""
    if beside.scores or beside.noise or beside.mask:
        flag = "score_column" if beside.scores else "given_noise" if beside.noise else "mask_column"
        raise UserError(f"--{flag} reads columns of pairs, and the data are rankings; leave it out")


class Framing(Protocol):
    """How pictures are framed."""

    @property
    def resolution(self) -> int: ...
    @property
    def limits(self) -> Limits: ...


class SideColumns:
    """The columns of a data set that ``settings`` ask for. Raises UserError where one is not there,
    or holds what cannot be read."""

    def __init__(self, dataset: Dataset, settings: SideSettings, place: Place) -> None:
        there = [name for name in dataset.column_names if name != FOLDER]
        self.columns: list[str] = []
        self.gaps: np.ndarray | None = None
        self.seeds: list[np.ndarray] | None = None
        self.masks: StoredImages | None = None
        if settings.scores:
            self.columns += (names := score_columns(settings.scores, there))
            first, second = (scores(dataset, name) for name in names)
            self.gaps = settings.gap_scale * (first - second)
        if settings.noise:
            if missing := [name for name in SEEDS if name not in there]:
                raise UserError(f"--given_noise: no column {missing[0]}; make_pairs writes it")
            self.columns += SEEDS
            self.seeds = [seeds(dataset, name) for name in SEEDS]
        if settings.mask:
            self.columns += (names := mask_columns(settings.mask, there))
            self.masks = StoredImages(dataset, {name: short(name, 40) for name in names}, place)

    def contents(self, rows: np.ndarray, read: np.ndarray) -> list[bytes]:
        """What tells these columns from others: numbers of all ``rows``, masks of those ``read``;
        nothing where no column is read."""
        parts = [] if self.gaps is None else [self.gaps[rows].tobytes()]
        if self.seeds is not None:
            parts.append(repr([n for seed_N in self.seeds for n in seed_N[rows].tolist()]).encode())
        if self.masks is not None:
            parts += [one for row in read for one in self.masks.contents(int(row))]
        return parts

    def toss(self, first_wins: np.ndarray) -> None:
        """Let the signs of the gaps be those of labels that were tossed."""
        if self.gaps is not None:
            self.gaps = np.abs(self.gaps) * np.sign(2 * first_wins - 1)

    def of(
        self,
        row: int,
        pictures: tuple[CroppedImage, CroppedImage],
        framing: Framing,
        augmentation: Augmentation,
    ) -> Sides:
        """What ``row`` of the source has. Raises BadImage where its mask cannot be read, UserError
        where its pictures are not of the size that they were sampled at."""
        gap = seeds = masks = None
        if self.gaps is not None:
            gap = float(self.gaps[row])
        if self.seeds is not None:
            check_size(row, pictures, framing.resolution)
            seeds = int(self.seeds[0][row]), int(self.seeds[1][row])
        if self.masks is not None:
            # At full size: one that was decoded smaller could not be compared with its picture.
            limits = framing.limits
            images = self.masks.images(row, lambda cell, find: open_image(cell, None, limits, find))
            first, second = (
                masked(image, picture, framing.resolution, augmentation)
                for image, picture in zip(images * (2 // len(images)), pictures, strict=True)
            )
            masks = first, second
        return Sides(gap, seeds, masks)


def masked(
    image: Image.Image, picture: CroppedImage, resolution: int, augmentation: Augmentation
) -> Tensor:
    """The mask of a picture, flipped and cropped as that is: ``(H, W)`` in [0, 1]. Raises BadImage
    where it is of another size, or nothing of it is left."""
    height, width = picture.original_size
    if image.size != (width, height):
        raise BadImage(
            f"its mask is {image.width} x {image.height}, its picture {width} x {height}"
        )
    mask_HW = (frame(image, resolution, augmentation).pixels_CHW.mean(dim=0) + 1) / 2
    if not mask_HW.any():
        raise BadImage("its mask has nothing white")
    return mask_HW


def score_columns(name: str, there: list[str]) -> list[str]:
    """The columns of the scores of both pictures. Raises UserError where there are none."""
    for pair in ([f"{name}_0", f"{name}_1"], [f"chosen_{name}", f"rejected_{name}"]):
        if set(pair) <= set(there):
            return pair
    raise UserError(
        f"--loss_type capo reads the scores of both pictures: no columns {name}_0 and {name}_1, or"
        f" chosen_{name} and rejected_{name}, in {listed(there, 120)}; name others with"
        " --score_column"
    )


def mask_columns(name: str, there: list[str]) -> list[str]:
    """The column of the mask, or of both masks. Raises UserError where there are none."""
    for columns in ([name], [f"{name}_0", f"{name}_1"]):
        if set(columns) <= set(there):
            return columns
    raise UserError(
        f"--mask_column {short(name, 40)}: no such column, nor {short(name, 40)}_0 and"
        f" {short(name, 40)}_1, in {listed(there, 120)}"
    )


def scores(dataset: Dataset, column: str) -> np.ndarray:
    """A column of scores. Raises UserError where one is not a finite number."""
    values = numbers(dataset, column)
    if broken := np.flatnonzero(~np.isfinite(values)).tolist():
        raise UserError(
            f"data: column {short(column, 40)}, row {broken[0]}: {len(broken)} of {len(values)}"
            " scores are not finite numbers; mend or leave out these rows"
        )
    return values


def seeds(dataset: Dataset, column: str) -> np.ndarray:
    """A column of seeds. Raises UserError where one is no whole number from 0 to 2^63 − 1."""
    cells = column_of(dataset, column)
    broken = np.ones(len(cells), dtype=bool)
    if types.is_integer(cells.type):
        values = np.asarray(arrow.fill_null(cells, 0))
        broken = np.asarray(arrow.is_null(cells)) | (values < 0) | (values >= 2**63)
    if broken.any():
        row = int(np.argmax(broken))
        raise UserError(
            f"data: column {column}, row {row}: {short(repr(cells[row].as_py()), 40)} is no seed, a"
            " whole number from 0"
        )
    return values.astype(np.int64)


def check_size(row: int, pictures: tuple[CroppedImage, CroppedImage], resolution: int) -> None:
    """Raise UserError where a picture is scaled or cropped: its noise would fit it no longer."""
    for picture in pictures:
        height, width = picture.original_size
        if (height, width) != (resolution, resolution):
            raise UserError(
                f"--given_noise: row {row} has a picture of {width} x {height}, trained at"
                f" {resolution}; the noise that it was sampled from belongs to its own size"
            )
