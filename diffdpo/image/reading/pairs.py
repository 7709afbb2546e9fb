"""Image preference pairs as the engine reads them: ties, broken labels and unreadable images are
sorted out here, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from diffdpo.cache.keys import digest
from diffdpo.data.cells import BadImage
from diffdpo.data.coins import below
from diffdpo.data.image_formats import NO_FLAGS, ImageFormat, called_by, detect, in_names_of
from diffdpo.data.places import Place
from diffdpo.data.source import FOLDER
from diffdpo.draws import Purpose, picked_rows
from diffdpo.engine.batches import Rows
from diffdpo.engine.console import skipped
from diffdpo.errors import UserError, short
from diffdpo.image.pictures.framing import FrameSettings, Picture
from diffdpo.image.pictures.marks import evenly
from diffdpo.image.pictures.pixels import Augmentation, CroppedImage, frame
from diffdpo.image.pictures.side_columns import NOTHING, SideColumns, Sides, check_alone
from diffdpo.image.pictures.stored import StoredImages
from diffdpo.image.reading.captions import prompts_of
from diffdpo.image.reading.tally import MAX_BROKEN, PairTally, too_many
from diffdpo.image.reading.traps import find_traps

CHECK_UP_TO = 5_000  # pairs that are all decoded at the start; larger sets are checked in passing
# For the fingerprint of a run: rows whose images are read, and rows whose sizes are looked up.
READ, WEIGHED = 256, 2_000
CENTRE = Augmentation()

T = TypeVar("T")
BothImages = tuple[CroppedImage, CroppedImage]  # first and second image of a row


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
    beside: Sides = NOTHING  # what the row has beside its pictures, chosen first
    flip: bool = False


class ImagePairs(Rows):
    """The pairs of a data set by row; ``read`` applies the augmentation of a visit."""

    def __init__(
        self,
        dataset: Dataset,
        format: ImageFormat,
        place: Place,
        framing: FrameSettings,
        called: Mapping[str, str],
    ) -> None:
        """``called`` has the user's own names of columns of the format."""
        self.format, self.framing, self.called = format, framing, called
        ranked = self.ranked = format.expand(dataset) if format.expand else None
        shown = {column: self.shown(column) for column in format.sides}
        self.stored = StoredImages(dataset, shown, place, ranked)
        self.first_wins = ranked.first_wins_P if ranked else format.first_wins(dataset)
        self.tally, self.seen = PairTally(rows=len(self.first_wins)), 0
        captions = dataset[format.prompt][:]
        self.captions = prompts_of(captions, self.shown(format.prompt), framing.seed)
        if ranked:
            self.tally.rankings = ranked.rankings
            self.captions = [self.captions[row] for row in ranked.row_P]
            check_alone(framing.beside)
        self.tally.without_prompt = self.captions.count("")
        self.tally.several_captions = sum(isinstance(caption, list) for caption in captions)
        self.beside = SideColumns(dataset, framing.beside, place)
        self.begin([name for name in dataset.column_names if name != FOLDER])

    def begin(self, columns: Sequence[str]) -> None:
        """Choose the rows, of a table with these ``columns``; what is beside them is known."""
        read = {*self.format.columns, *self.format.optional, *self.beside.columns}
        self.tally.unread_columns = [name for name in columns if name not in read]
        self.known: dict[str, tuple[np.ndarray, Any]] = {}  # of the rows, by name
        self.rows = self.usable()
        self.sides: Callable[[int, Augmentation], BothImages] = self.framed
        self.toss()

    def toss(self) -> None:
        """Take a coin for every label, where asked for; of the same rows as the run without."""
        if self.framing.random_labels:
            every = np.arange(len(self.first_wins))
            coins = below(np.full(len(every), 2), self.framing.seed, Purpose.LABEL_NOISE, every)
            self.first_wins = coins.astype(np.float64)
            self.beside.toss(self.first_wins)

    def usable(self) -> np.ndarray:
        """The rows without ties and broken labels. Raises UserError where none are left."""
        tie, broken = self.first_wins == 0.5, np.isnan(self.first_wins)
        self.tally.ties, self.tally.unlabelled = int(tie.sum()), int(broken.sum())
        labels = self.tally.rows if self.tally.rankings is None else self.tally.rankings
        if too_many(self.tally.unlabelled, labels):
            what = "rankings cannot be read" if self.ranked else "labels are not 0, 0.5 or 1"
            raise UserError(
                f"data: {self.tally.unlabelled} of {labels} {what} (first in row"
                f" {self.row_of(int(np.flatnonzero(broken)[0]))}); mend column"
                f" {self.shown(self.format.labels[0])}"
            )
        rows = np.flatnonzero(~broken & (~tie | (self.framing.ties == "soft")))
        if self.tally.rows == 0:
            raise UserError(f"data: none of the {labels} rankings has two pictures")
        if len(rows) == 0:
            raise UserError(
                f"data: all {self.tally.rows} rows are ties; nothing to learn from (see --ties"
                " soft)"
            )
        return rows

    def row_of(self, pair: int) -> int:
        """The row of the data set that holds a pair."""
        return int(self.ranked.row_P[pair]) if self.ranked else pair

    def named(self, pair: int) -> str:
        """A pair for a line to the user."""
        return f"pair {pair}, row {self.row_of(pair)}" if self.ranked else f"row {pair}"

    def shown(self, column: str) -> str:
        """A column of the format under the name that the user's data have for it."""
        return short(self.called.get(column, column), 40)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fingerprint(self) -> str:
        """A digest of prompts, labels, the choice of rows, and images. A checkpoint compares it.

        Of the images it has sizes and contents, those of a large set from rows evenly spread; not
        the time of a file's last change, which another copy of the data does not share.
        """
        return self.once("fingerprint", self.read_fingerprint)

    def read_fingerprint(self) -> str:
        """The same, read from the data."""
        weighed, read = evenly(self.rows, WEIGHED), evenly(self.rows, READ)
        sizes = [size for marks in self.stored.marks(weighed) for size, _ in marks]
        images = [one for row in read for one in self.stored.contents(int(row))]
        labels = self.first_wins[self.rows].tobytes()
        numbers = np.asarray(sizes, dtype=np.int64).tobytes()
        beside = self.beside.contents(self.rows, read)
        return digest(self.rows.tobytes(), labels, numbers, *self.prompts(), *images, *beside)

    def once(self, name: str, read: Callable[[], T]) -> T:
        """What ``read`` gives, which depends on the usable rows: not read again for the same."""
        if name not in self.known or self.known[name][0] is not self.rows:
            self.known[name] = self.rows, read()
        return cast(T, self.known[name][1])

    def source(self, row: int) -> int:
        """The row of the data set that usable row ``row`` is."""
        return int(self.rows[row])

    def prompt(self, row: int) -> str:
        """The prompt of a source row."""
        return self.captions[row]

    def prompts(self) -> list[str]:
        """The prompt of every usable row."""
        return list(self.each_prompt())

    def each_prompt(self) -> Iterator[str]:
        """The same, one by one."""
        return (self.prompt(row) for row in self.rows.tolist())

    def limit(self, count: int | None, seed: int) -> None:
        """Keep only ``count`` pairs, picked by the seed."""
        if count is not None and count < len(self.rows):
            self.rows = np.sort(self.rows[picked_rows(seed, count, len(self.rows))])

    def check(self, quiet: bool) -> None:
        """Decode every image of a small set once, and drop pairs that cannot be read.

        Larger sets are checked as they are read. Raises UserError where over 5 % cannot be read.
        """
        self.tally.checked = len(self.rows) <= CHECK_UP_TO
        self.count_traps()
        if not self.tally.checked:
            return
        good = []
        off = True if quiet else None  # tqdm: None disables it where there is no terminal
        for row in tqdm(self.rows, desc="checking images", unit="pair", disable=off, leave=False):
            try:
                self.try_row(int(row))
                good.append(row)
            except BadImage as error:
                self.tally.unreadable.append(f"{self.named(row)}: {error}")
        self.keep(np.array(good, dtype=np.int64))

    def count_traps(self) -> None:
        """Count what the labels of a small set may hide."""
        if len(self.rows) > CHECK_UP_TO:
            return
        # Digests, not contents: all pictures together may not fit into memory.
        names = ([digest(one) for one in self.stored.contents(int(row))] for row in self.rows)
        both = [(row, name) for row, name in zip(self.rows, names, strict=True) if name]
        prompts = [self.captions[row] for row, _ in both]
        wins = [float(self.first_wins[row]) for row, _ in both]
        self.tally.traps = find_traps([(one, two) for _, (one, two) in both], prompts, wins)

    def try_row(self, row: int) -> None:
        """Read a source row as training will. Raises BadImage where that fails."""
        images = self.images(row)
        if self.beside.columns:
            first, second = (frame(image, self.framing.resolution, CENTRE) for image in images)
            self.beside.of(row, (first, second), self.framing, CENTRE)

    def keep(self, rows: np.ndarray) -> None:
        """Keep only these source rows. Raises UserError where over 5 % turned out unreadable; a
        single one never is too many."""
        if too_many(len(self.tally.unreadable), len(self.rows)) or len(rows) == 0:
            first = self.tally.unreadable[0]
            raise UserError(
                f"data: {len(self.tally.unreadable)} of {len(self.rows)} pairs are unreadable"
                f" ({first})"
            )
        self.rows = rows

    def images(self, row: int) -> list[Picture]:
        """The first and the second image of a source row, upright, in RGB; of video, clips.

        Raises BadImage for a broken image.
        """
        return self.stored.images(row, self.framing.open)

    def framed(self, number: int, augmentation: Augmentation) -> BothImages:
        """Pixels of the first and the second image of usable row ``number``."""
        first, second = self.images(int(self.rows[number]))
        resolution = self.framing.resolution
        return frame(first, resolution, augmentation), frame(second, resolution, augmentation)

    def skip(self, row: int, error: BadImage) -> None:
        """Count and report an unreadable row. Raises UserError where there are too many."""
        self.tally.unreadable.append(f"{self.named(row)}: {error}")
        skipped(self.tally.unreadable[-1])
        self.seen += 1
        # Five in any case: at the beginning 5 % of the rows seen is less than one.
        if len(self.tally.unreadable) > max(5, MAX_BROKEN * self.seen):
            raise UserError(
                f"data: {len(self.tally.unreadable)} of {self.seen} pairs are unreadable; the last"
                f" is {self.named(row)}"
            )

    def read(self, row: int, visit: int) -> PairItem:
        """Usable row number ``row`` at a visit, with the winner as chosen.

        In a set too large to be checked at the start, the next row replaces an unreadable one.
        """
        for index in range(row, row + len(self.rows)):
            number = index % len(self.rows)
            source = int(self.rows[number])
            augmentation = self.framing.augmentation(source, visit)
            try:
                pictures = self.sides(number, augmentation)
                beside = self.beside.of(source, pictures, self.framing, augmentation)
                prompt = self.prompt(source)
                break
            except BadImage as error:
                self.skip(source, error)
        else:
            raise UserError(f"data: none of the {len(self.rows)} pairs can be read")
        self.seen += 1
        outcome = float(self.first_wins[source])
        if outcome < 0.5:
            pictures, beside, outcome = pictures[::-1], beside.swapped(), 1 - outcome
        flip = augmentation.flip
        return PairItem(source, visit, prompt, *pictures, outcome, beside=beside, flip=flip)


def image_pairs(
    dataset: Dataset,
    framing: FrameSettings,
    name: str | None = None,
    given: Mapping[str, str | None] = NO_FLAGS,
    requested: str | None = None,
    cache_dir: str | None = None,
) -> ImagePairs:
    """The pairs of a loaded data set ``name``, None for one made in memory.

    ``given`` are the columns that flags name, by role; ``requested`` is a format of the table.
    """
    format = detect([name for name in dataset.column_names if name != FOLDER], given, requested)
    rows, place = in_names_of(format, dataset, given), Place.of(name, cache_dir)
    rows = format.prepare(rows) if format.prepare else rows
    return ImagePairs(rows, format, place, framing, called_by(format, given))
