"""Image preference pairs as the engine reads them.

Ties, broken labels and unreadable images are sorted out here, once.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image
from tqdm.auto import tqdm

from diffdpo.data.image_formats import ImageFormat, detect
from diffdpo.draws import Purpose, epoch_order, generator
from diffdpo.engine.batches import Rows
from diffdpo.errors import UserError
from diffdpo.image.pixels import Augmentation, CroppedImage, frame, open_image

CHECK_UP_TO = 5_000  # pairs that are all decoded at the start; larger sets are checked in passing
MAX_BROKEN = 0.05  # share of broken rows: more are taken for a mistake in reading the data

Sides = tuple[CroppedImage, CroppedImage]  # first and second image of a row


@dataclass(frozen=True)
class PairItem:
    """One pair with both images, as pixels or encoded."""

    pair: int  # row number in the source: draws are made from it
    visit: int
    prompt: str
    chosen: CroppedImage
    rejected: CroppedImage
    outcome: float  # P(chosen ≻ rejected)
    reference: tuple[float, ...] | None = None  # the reference's scores of both, where stored


@dataclass
class PairTally:
    """The number of rows of the source, and of those left out, by reason."""

    rows: int = 0
    ties: int = 0
    unlabelled: int = 0
    unreadable: list[str] = field(default_factory=list)
    checked: bool = True  # False: images are checked as they are read


class ImagePairs(Rows):
    """The pairs of a data set by row; ``read`` applies the augmentation of a visit."""

    def __init__(
        self, dataset: Dataset, format: ImageFormat, folder: Path | None, framing: FrameSettings
    ) -> None:
        self.format, self.folder, self.framing = format, folder, framing
        for column in (format.first, format.second):
            if isinstance(dataset.features[column], ImageFeature):
                # Undecoded: decoding is ours, with rotation, transparency and errors by row.
                dataset = dataset.cast_column(column, ImageFeature(decode=False))
        self.dataset = dataset
        self.tally, self.seen = PairTally(rows=len(dataset)), 0
        self.first_wins = format.first_wins(dataset)
        self.captions = [str(caption) for caption in dataset[format.prompt][:]]
        self.rows = self.usable()
        self.sides: Callable[[int, Augmentation], Sides] = self.framed
        if framing.random_labels:
            # After ``usable``, so that the control trains on the same rows as the run.
            coins = [
                generator(framing.seed, Purpose.LABEL_NOISE, row).integers(2)
                for row in range(len(dataset))
            ]
            self.first_wins = np.array(coins, dtype=np.float64)

    def usable(self) -> np.ndarray:
        """The rows without ties and broken labels. Raises UserError where none are left."""
        tie, broken = self.first_wins == 0.5, np.isnan(self.first_wins)
        self.tally.ties, self.tally.unlabelled = int(tie.sum()), int(broken.sum())
        if self.tally.unlabelled > MAX_BROKEN * self.tally.rows:
            raise UserError(
                f"data: {self.tally.unlabelled} of {self.tally.rows} labels are not 0, 0.5 or 1"
                f" (first in row {int(np.flatnonzero(broken)[0])}); mend column"
                f" {self.format.labels[0]}"
            )
        rows = np.flatnonzero(~broken & (~tie | (self.framing.ties == "soft")))
        if len(rows) == 0:
            raise UserError(
                f"data: all {self.tally.rows} rows are ties; nothing to learn from (see --ties"
                " soft)"
            )
        return rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """A digest of prompts, labels and the choice of rows. A checkpoint compares it."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(self.rows.tobytes() + self.first_wins[self.rows].tobytes())
        digest.update("\x1f".join(self.prompts()).encode())
        return digest.hexdigest()

    def source(self, row: int) -> int:
        """The row of the data set that usable row ``row`` is."""
        return int(self.rows[row])

    def prompts(self) -> list[str]:
        """The prompt of every usable row."""
        return [self.captions[row] for row in self.rows]

    def limit(self, count: int | None, seed: int) -> None:
        """Keep only ``count`` pairs, picked by the seed."""
        # Epoch −1 is an order that no epoch of training has.
        if count is not None and count < len(self.rows):
            self.rows = np.sort(self.rows[epoch_order(seed, -1, len(self.rows))[:count]])

    def check(self, quiet: bool) -> None:
        """Decode every image of a small set once, and drop pairs that cannot be read.

        Larger sets are checked as they are read. Raises UserError where over 5 % cannot be read.
        """
        self.tally.checked = len(self.rows) <= CHECK_UP_TO
        if not self.tally.checked:
            return
        good = []
        on_terminals = True if quiet else None  # tqdm: None disables it where there is no terminal
        for row in tqdm(
            self.rows, desc="checking images", unit="pair", disable=on_terminals, leave=False
        ):
            try:
                self.images(int(row))
                good.append(row)
            except (OSError, ValueError) as error:
                self.tally.unreadable.append(f"row {row}: {error}")
        self.keep(np.array(good, dtype=np.int64))

    def keep(self, rows: np.ndarray) -> None:
        """Keep only these source rows. Raises UserError where over 5 % turned out unreadable."""
        if len(self.tally.unreadable) > MAX_BROKEN * len(self.rows):
            first = self.tally.unreadable[0]
            raise UserError(
                f"data: {len(self.tally.unreadable)} of {len(self.rows)} pairs are unreadable"
                f" ({first})"
            )
        self.rows = rows

    def images(self, row: int) -> list[Image.Image]:
        """The first and the second image of a source row, upright, in RGB.

        Raises OSError or ValueError for a broken image.
        """
        return [open_image(image, self.framing.resolution) for image in self.stored(row)]

    def stored(self, row: int) -> list[Any]:
        """Both images of a source row as stored: bytes, a dictionary with bytes, or a path."""
        record = self.dataset[row]
        images = (record[self.format.first], record[self.format.second])
        return [
            self.folder / image if self.folder and isinstance(image, str) else image
            for image in images
        ]

    def framed(self, number: int, augmentation: Augmentation) -> Sides:
        """Pixels of the first and the second image of usable row ``number``."""
        first, second = self.images(int(self.rows[number]))
        resolution = self.framing.resolution
        return frame(first, resolution, augmentation), frame(second, resolution, augmentation)

    def skip(self, row: int, error: Exception) -> None:
        """Count and report an unreadable row. Raises UserError where there are too many."""
        self.tally.unreadable.append(f"row {row}: {error}")
        tqdm.write(f"skipped      row {row}: {error}", file=sys.stderr)
        self.seen += 1
        # Five in any case: at the beginning 5 % of the rows seen is less than one.
        if len(self.tally.unreadable) > max(5, MAX_BROKEN * self.seen):
            raise UserError(
                f"data: {len(self.tally.unreadable)} of {self.seen} pairs are unreadable; last row"
                f" {row}"
            )

    def read(self, row: int, visit: int) -> PairItem:
        """Usable row number ``row`` at a visit, with the winner as chosen.

        In a set too large to be checked at the start, the next row replaces an unreadable one.
        """
        for index in range(row, row + len(self.rows)):
            number = index % len(self.rows)
            source = int(self.rows[number])
            try:
                first, second = self.sides(number, self.framing.augmentation(source, visit))
                break
            except (OSError, ValueError) as error:
                self.skip(source, error)
        self.seen += 1
        outcome = float(self.first_wins[source])
        chosen, rejected = (first, second) if outcome >= 0.5 else (second, first)
        return PairItem(
            source, visit, self.captions[source], chosen, rejected, max(outcome, 1 - outcome)
        )


@dataclass(frozen=True)
class FrameSettings:
    """Settings of crops, flips, ties and labels."""

    seed: int
    resolution: int
    random_crop: bool = False
    flip: bool = False
    ties: str = "drop"
    random_labels: bool = False

    def augmentation(self, pair: int, visit: int) -> Augmentation:
        """The flip and crop of both images of a pair at this visit."""
        flip = self.flip and generator(self.seed, Purpose.FLIP, pair, visit).random() < 0.5
        if not self.random_crop:
            return Augmentation(flip)
        top, left = generator(self.seed, Purpose.CROP, pair, visit).random(2)
        return Augmentation(flip, float(top), float(left))


def image_pairs(
    dataset: Dataset, framing: FrameSettings, name: str, columns: tuple[str | None, ...]
) -> ImagePairs:
    """The pairs of a loaded data set ``name``; file names in it are relative to its folder."""
    folder = Path(name) if (Path(name) / "metadata.jsonl").exists() else None
    return ImagePairs(dataset, detect(dataset.column_names, *columns), folder, framing)
