"""Rows with scores, seeds and masks beside their pictures."""

from datasets import Dataset
from PIL import Image

from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.reading.pairs import image_pairs
from tests.factory import encoded, pickapic_rows


def mask_of(white, size=(32, 32)):
    """A PNG that is white inside the box ``white`` and black elsewhere."""
    image = Image.new("L", size)
    image.paste(255, white)
    return encoded(image)


def rows_of(count=6, **columns):
    """Rows with more columns, each a function of the row's number."""
    rows = pickapic_rows(count)
    extra = [{name: make(index) for name, make in columns.items()} for index in range(count)]
    return [row | more for row, more in zip(rows, extra, strict=True)]


def pairs_of(rows, beside, **changes):
    framing = FrameSettings(
        **{"seed": 0, "resolution": 32, "flip": True, "beside": beside} | changes
    )
    return image_pairs(Dataset.from_list(rows), framing)


SCORES = {"score_0": lambda i: 0.5 * i, "score_1": lambda i: 1.0}
SEEDS = {"seed_0": lambda i: 10 + i, "seed_1": lambda i: 2**40 + i}
LEFT = {"mask": lambda i: mask_of((0, 0, 16, 32))}
