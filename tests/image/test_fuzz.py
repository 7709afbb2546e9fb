"""Ten thousand damaged image files: each is read or is a BadImage, and nothing else escapes."""

import io
import random

import pytest
from PIL import Image, features

from diffdpo.data.cells import BadImage
from diffdpo.data.decode import open_image
from tests.factory import picture

MUTANTS = 10_000
Image.init()
# Formats that Pillow writes as more than one frame or through another program are left out.
FORMATS = sorted(set(Image.SAVE) - {"PDF", "EPS", "PALM", "HDF5", "BUFR", "GRIB", "WMF"})


def writable(name):
    """The bytes of a small image in this format; None where it does not take one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("RGB", "P", "L", "1"):
        for options in ({"exif": exif.tobytes(), "icc_profile": bytes(200)}, {}):
            out = io.BytesIO()
            try:
                picture(4, (24, 16)).convert(mode).save(out, name, **options)
            except (OSError, ValueError, TypeError, KeyError):
                continue
            return out.getvalue()
    return None


def mutant(good, dice):
    """A copy with a few bytes changed, cut, doubled or swapped, most of them near the beginning."""
    data = bytearray(good)
    for _ in range(dice.randint(1, 4)):
        place = min(int(dice.expovariate(1 / 200)), len(data) - 1)
        length = dice.choice([1, 1, 1, 2, 4, 16, 64])
        kind = dice.randrange(5)
        if kind == 0:
            data[place : place + length] = dice.randbytes(length)
        elif kind == 1:
            data[place] ^= 1 << dice.randrange(8)
        elif kind == 2:
            del data[place : place + length]
        elif kind == 3:
            data[place:place] = data[place : place + length]
        else:
            data[place : place + length] = dice.choice([b"\0", b"\xff", b"\x7f"]) * length
        if not data:
            break
    return bytes(data[: dice.randrange(len(data) + 1)] if dice.random() < 0.1 else data)


@pytest.mark.slow
def test_nothing_but_a_bad_image_escapes_from_a_damaged_file():
    dice = random.Random(11)
    good = {name: data for name in FORMATS if (data := writable(name))}
    assert {"PNG", "JPEG", "GIF", "TIFF", "BMP", "DDS"} <= set(good)
    assert features.check("webp") == ("WEBP" in good)
    counts, reasons = {"read": 0, "refused": 0}, set()
    for number in range(MUTANTS):
        name = sorted(good)[number % len(good)]
        data = mutant(good[name], dice)
        try:
            image = open_image(data, enough=dice.choice([None, 8, 512]))
        except BadImage as error:
            counts["refused"] += 1
            reasons.add(str(error))
        else:
            assert image.mode == "RGB"
            counts["read"] += 1
    assert all(0 < len(reason) <= 200 for reason in reasons)
    assert min(counts.values()) > MUTANTS / 20  # both happen
