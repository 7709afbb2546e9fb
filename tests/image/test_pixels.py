"""Every kind of image file that people have comes out upright, opaque and in 8-bit colour."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from diffdpo.data.cells import BadImage
from diffdpo.data.decode import Limits, open_image
from diffdpo.image.pictures.pixels import Augmentation, frame, from_bytes
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
    with pytest.raises(BadImage):
        open_image(stored)


def chunk(kind, body):
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png_with(*chunks, image=None):
    """A PNG with further chunks before its pixels."""
    plain = encoded(image or picture(6, (48, 32)))
    return plain[:33] + b"".join(chunks) + plain[33:]  # after signature and header


EXIF_6 = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
MANY = zlib.compress(b"[1,2,3]," * 300_000)
NOTES = {
    "EXIF that is no TIFF": chunk(b"eXIf", b"b'Exif\\x00"),
    "EXIF cut short": chunk(b"eXIf", b"II*\0"),
    "EXIF with a wrong checksum": chunk(b"eXIf", EXIF_6)[:-1] + b"?",
    "a long compressed text": chunk(b"zTXt", b"workflow\0\0" + MANY),
    "a long international text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + MANY),
    "a text that does not unpack": chunk(b"zTXt", b"workflow\0\0junk"),
    "a long profile": chunk(b"iCCP", b"icc\0\0" + MANY),
    "a profile that does not unpack": chunk(b"iCCP", b"icc\0\0junk"),
    "a text with a wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"?",
}


@pytest.mark.parametrize("note", NOTES)
def test_pixels_are_read_whatever_the_notes_beside_them_are(note):
    assert np.array_equal(open_image(png_with(NOTES[note])), picture(6, (48, 32)))


def test_a_sound_orientation_holds_beside_a_broken_note():
    stored = png_with(chunk(b"eXIf", EXIF_6), NOTES["a long compressed text"])
    assert open_image(stored).size == (32, 48)
    clear = Image.new("P", (4, 4), 0)
    clear.putpalette([9, 9, 9])
    stored = encoded(clear, transparency=0)
    stored = stored[:33] + NOTES["a long profile"] + stored[33:]
    assert open_image(stored).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["WEBP", "AVIF", "JPEG"])
def test_broken_exif_does_not_hide_the_pixels_of_other_formats(format):
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 1, "a description that is long enough to be found"
    stored = encoded(picture(6, (48, 32)), format, exif=exif)
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    assert stored.count(block) == 1
    for broken in (b"b'Exif\\x00".ljust(len(block), b"?"), block[:4] + b"\xff" * (len(block) - 4)):
        image = open_image(stored.replace(block, broken))
        assert image.tobytes() == open_image(stored).tobytes()


@pytest.mark.parametrize("raised", [RuntimeError, NotImplementedError, KeyError, struct.error])
def test_what_a_decoder_raises_is_a_bad_image(monkeypatch, raised):
    def load(self):
        raise raised("x" * 5000)

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(BadImage, match="xxx…") as caught:
        open_image(encoded(picture(1), "BMP"))
    assert len(str(caught.value)) <= 80


def test_damaged_avif_is_a_bad_image():
    stored = bytearray(encoded(picture(1), "AVIF"))
    place = stored.find(b"mdat") + 8
    stored[place : place + 60] = b"\xff" * 60
    with pytest.raises(BadImage):
        open_image(bytes(stored))


def test_too_little_memory_is_a_bad_image(monkeypatch):
    def load(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(BadImage, match="more memory than there is"):
        open_image(encoded(picture(1), "BMP"))


def test_no_program_is_run_for_a_picture(monkeypatch):
    stored = encoded(picture(1), "EPS")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("ran"))
    with pytest.raises(BadImage, match="EPS is a program"):
        open_image(stored)


@pytest.mark.parametrize(
    ("mode", "value", "grey"),
    [
        ("I", 32896, 128),
        ("I", 0, 0),
        ("I", 200, "which is white"),
        ("I", 70_000, "which is white"),
        ("I", -5, "which is white"),
        ("F", 0.5, 128),
        ("F", 77.0, 77),
        ("F", 300.0, "which is white"),
        ("F", float("nan"), "which is white"),
    ],
)
def test_what_stands_for_white_is_never_guessed(mode, value, grey):
    image = Image.new(mode, (4, 4), value)
    if isinstance(grey, int):
        assert open_image(image).getpixel((0, 0)) == (grey,) * 3
    else:
        with pytest.raises(BadImage, match=grey):
            open_image(image)


def test_too_many_pixels_are_refused_before_they_unpack():
    limits = Limits(pixels=100)
    for side in (11, 100):  # Pillow warns beyond the limit and raises beyond twice the limit
        with pytest.raises(BadImage, match=f"{side**2:,} pixels, more than the 100 of --max_image"):
            open_image(encoded(picture(0, (side, side))), limits=limits)
    assert open_image(encoded(picture(0, (10, 10))), limits=limits).size == (10, 10)
    assert Image.MAX_IMAGE_PIXELS > 1e6  # as it was


def test_an_honest_picture_of_100_megapixels_is_read():
    stored = encoded(Image.new("L", (11_200, 9_000), 200))
    assert open_image(stored).getpixel((11_199, 8_999)) == (200, 200, 200)


def test_a_strip_is_refused_or_costs_no_more_than_others():
    strip = encoded(Image.new("1", (60_000, 1)))
    with pytest.raises(BadImage, match=r"60000 x 1 pixels: .* 50 times .*--max_image_ratio"):
        open_image(strip)
    image = open_image(strip, limits=Limits(ratio=1e6))
    start = time.process_time()
    assert frame(image, 1024, Augmentation(flip=True)).pixels_CHW.shape == (3, 1024, 1024)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("place", [0.0, 0.3, 1.0])
def test_of_a_strip_the_same_part_is_kept(flip, place):
    augmentation = Augmentation(flip, place, place)
    image = picture(7, (400, 60))
    framed = frame(image, 32, augmentation).pixels_CHW
    whole = image.resize((213, 32), Image.Resampling.BILINEAR)
    whole = ImageOps.mirror(whole) if flip else whole
    left = round((213 - 32) * place)
    expected = np.asarray(whole.crop((left, 0, left + 32, 32))) / 127.5 - 1
    assert np.abs(framed.permute(1, 2, 0).numpy() - expected).max() < 3 / 127.5


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


def test_every_byte_becomes_the_same_bits_as_by_numpy():
    """Numpy's float32 division and subtraction are the oracle."""
    byte = np.arange(256, dtype=np.uint8)
    expected = byte.astype(np.float32) / np.float32(127.5) - np.float32(1)
    assert from_bytes(torch.from_numpy(byte)).numpy().tobytes() == expected.tobytes()


def test_flip_and_crop_are_where_the_draw_says():
    image = picture(3, (64, 32))
    left, right = (frame(image, 32, Augmentation(left=share)) for share in (0.0, 1.0))
    assert (left.crop_top_left, right.crop_top_left) == ((0, 0), (0, 32))
    whole = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(left.pixels_CHW, whole[:, :, :32])
    mirrored = frame(image, 32, Augmentation(flip=True, left=1.0))
    assert torch.equal(mirrored.pixels_CHW, left.pixels_CHW.flip(-1))
