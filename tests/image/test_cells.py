"""What an image column may hold, and what is refused instead of being guessed."""

import base64
import json

import numpy as np
import pytest
from PIL import Image

from diffdpo.data.cells import BadImage
from diffdpo.data.decode import open_image
from tests.factory import encoded, picture

IMAGE = picture(3, (24, 16))
PNG = encoded(IMAGE)
TEXT = base64.b64encode(PNG).decode()
VALUES = np.asarray(IMAGE)
CELLS = {
    "bytes": PNG,
    "a record": {"bytes": PNG, "path": None},
    "a record with another key": {"path": None, "bytes": PNG, "width": 24},
    "base64": TEXT,
    "base64 in lines": "\n".join(TEXT[i : i + 76] for i in range(0, len(TEXT), 76)) + "\n",
    "base64 for addresses, without padding": base64.urlsafe_b64encode(PNG).decode().rstrip("="),
    "a data address": f"data:image/png;base64,{TEXT}",
    "base64 in a record": {"bytes": TEXT, "path": None},
    "a list with one": [{"bytes": PNG, "path": None}],
    "a list with one name's bytes": [PNG],
    "an array": VALUES,
    "nested lists": VALUES.tolist(),
    "channels first": np.moveaxis(VALUES, 2, 0),
    "fractions, channels first": np.moveaxis(VALUES / np.float32(255), 2, 0),
    "fractions": (VALUES / 255).tolist(),
    "a picture": IMAGE,
}


@pytest.mark.parametrize("name", CELLS)
def test_an_image_is_read_from(name):
    assert np.array_equal(open_image(CELLS[name]), VALUES)


def test_grey_arrays_and_arrays_with_alpha_are_read():
    grey = np.arange(24 * 16, dtype=np.uint8).reshape(16, 24)
    for values in (grey, grey[:, :, None], grey[None]):
        assert np.array_equal(np.asarray(open_image(values))[:, :, 1], grey)
    clear = np.concatenate([VALUES, np.zeros((16, 24, 1), np.uint8)], axis=2)
    assert open_image(clear).getpixel((0, 0)) == (255, 255, 255)


def test_a_file_is_read_by_its_name(tmp_path):
    IMAGE.save(tmp_path / "a.png")
    longer = tmp_path / ("abcd" * 30)  # letters that base64 could have, too
    IMAGE.save(longer, "PNG")
    for stored in (tmp_path / "a.png", str(longer), {"bytes": None, "path": str(longer)}):
        assert np.array_equal(open_image(stored), VALUES)


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        (None, "empty"),
        ("", "empty"),
        ("  ", "empty"),
        (b"", "empty"),
        ({"bytes": None, "path": None}, "empty"),
        ({"bytes": None}, "empty"),
        ({"url": "x"}, "holds an object with url; images are bytes"),
        ({}, "holds an object with"),
        (7, "holds '7'; images are bytes"),
        (0.5, "holds '0.5'"),
        (True, "holds 'True'"),
        ([], "holds an empty list"),
        ([PNG, PNG], "holds a list of 2 values; one image is wanted"),
        ([[[1, 2], [3]]], "no array|list of 1"),
        ([1, 2, 3], "array of 3; H x W"),
        (np.zeros((3, 8, 3), np.uint8), "which side are the channels"),
        (np.zeros((8, 9, 2), np.uint8), "which side are the channels"),
        (np.zeros((2, 8, 9, 3), np.uint8), "array of 2 x 8 x 9 x 3"),
        (np.full((8, 8), 256), "whole numbers from 256 to 256"),
        (np.full((8, 8), -1), "whole numbers from -1"),
        (np.eye(8, dtype=np.int64), "whole numbers from 0 to 1"),
        (np.full((8, 8), 1.5), "fractions from 1.5 to 1.5"),
        (np.full((8, 8), np.nan), "fractions from nan"),
        (np.full((8, 8), True), "one image is wanted"),
        ("https://example.org/a.png", r"addresses are not fetched \(https://example.org/a.png\)"),
        ("s3://bucket/a.png", "addresses are not fetched"),
        ("a" * 200_000 + "!", "neither a file name nor base64"),
        ("iVBORw0KGgo" * 9, "."),
        ("data:image/png;base64,%%%", "base64 that is broken"),
        ("data:,", "."),
        ("a\0b.png", "no such file"),
    ],
)
def test_what_is_no_image_gets_a_short_line(cell, line):
    with pytest.raises(BadImage, match=line) as caught:
        open_image(cell)
    assert len(str(caught.value)) <= 200


def test_black_is_black_in_whole_numbers_of_any_type():
    assert open_image(json.loads(json.dumps([[0] * 8] * 8))).getpixel((0, 0)) == (0, 0, 0)
    assert open_image(Image.new("L", (8, 8), 1)).getpixel((0, 0)) == (1, 1, 1)
