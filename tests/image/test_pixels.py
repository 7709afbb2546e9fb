"""Every kind of image file that people have comes out upright, opaque and in 8-bit colour."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from diffdpo.image.pixels import Augmentation, frame, open_image
from tests.factory import encoded, picture


def test_bytes_paths_pictures_and_records_are_the_same(tmp_path):
    image = picture(0)
    path = tmp_path / "a.png"
    image.save(path)
    raw = encoded(image)
    for stored in (
        raw,
        str(path),
        path,
        image,
        {"bytes": raw, "path": None},
        {"bytes": None, "path": str(path)},
    ):
        assert np.array_equal(np.asarray(open_image(stored)), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    image = picture(1, (48, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(image, "PNG", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(stored)))
    assert np.array_equal(np.asarray(open_image(stored)), np.asarray(expected))
    assert open_image(stored).size == ((48, 32) if orientation < 5 else (32, 48))


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_image(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("LA", (4, 4), (0, 128))
    assert open_image(encoded(half)).getpixel((0, 0)) == (127, 127, 127)
    palette = Image.new("P", (4, 4), 0)
    palette.info["transparency"] = 0
    assert open_image(encoded(palette, "PNG", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_and_grey_keep_their_brightness():
    deep = Image.fromarray(np.full((4, 4), 32896, dtype=np.uint16))
    assert open_image(encoded(deep)).getpixel((0, 0)) == (128, 128, 128)
    assert open_image(encoded(Image.new("L", (4, 4), 77))).getpixel((0, 0)) == (77, 77, 77)
    assert open_image(encoded(Image.new("1", (4, 4), 1))).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(encoded(Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "JPEG")).getpixel(
        (0, 0)
    ) == (255, 255, 255)


@pytest.mark.parametrize(
    "stored", [b"", b"not an image", encoded(picture(0))[:200], None, "/no/such/file.png"]
)
def test_what_is_no_image_is_refused(stored):
    with pytest.raises((OSError, ValueError)):
        open_image(stored)


def test_a_bomb_is_refused_before_it_unpacks(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (11, 100):  # Pillow warns beyond the limit and raises beyond twice the limit
        with pytest.raises(ValueError, match="more pixels"):
            open_image(encoded(picture(0, (side, side))))


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (33, 57), (16, 20)])
def test_framing_cuts_a_square_from_the_scaled_image(size):
    framed = frame(picture(2, size), 32, Augmentation())
    assert framed.pixels_CHW.shape == (3, 32, 32)
    assert framed.original_size == (size[1], size[0])
    assert framed.pixels_CHW.min() >= -1
    assert framed.pixels_CHW.max() <= 1


def test_pixels_run_from_minus_one_to_one():
    values = frame(
        Image.fromarray(np.array([[[0, 255, 255]]], dtype=np.uint8)), 1, Augmentation()
    ).pixels_CHW
    assert values.flatten().tolist() == [-1.0, 1.0, 1.0]


def test_flip_and_crop_are_where_the_draw_says():
    image = picture(3, (64, 32))
    left, right = (frame(image, 32, Augmentation(left=share)) for share in (0.0, 1.0))
    assert (left.crop_top_left, right.crop_top_left) == ((0, 0), (0, 32))
    whole = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(left.pixels_CHW, whole[:, :, :32])
    mirrored = frame(image, 32, Augmentation(flip=True, left=1.0))
    assert torch.equal(mirrored.pixels_CHW, left.pixels_CHW.flip(-1))
