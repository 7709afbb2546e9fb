"""Decodes stored images: the one place that meets what files may hold. Whatever goes wrong inside
a decoder is a BadImage."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image, UnidentifiedImageError

from diffdpo.data.cells import BadImage, Find, unpack
from diffdpo.data.modes import to_rgb
from diffdpo.data.paths import LFS, POINTER
from diffdpo.data.places import Place
from diffdpo.errors import short

FULL_SIZE = "full size"  # in an image's info: (height, width) before a JPEG was decoded at less
Loaded = tuple[Image.Image, tuple[int, int]]  # with (height, width) of the image in full
PNG = b"\x89PNG\r\n\x1a\n"
# First bytes of Matroska and WebM, MPEG program streams, Ogg and Flash; MP4 and QuickTime name a
# brand, of which these are pictures (ISO/IEC 23008-12, and AVIF).
VIDEOS = (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"OggS", b"FLV\x01")
PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
HEIC_BRANDS = PICTURE_BRANDS[2:]
UNKNOWN = "in no image format that is known here"
EXIF_ITEM = re.compile(rb"(infe.{8}(?:..)?)Exif", re.DOTALL)  # in the list of items of a file
# What brings an image upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Limits:
    """What is no honest training image: more pixels than ``pixels``, or one side more than
    ``ratio`` times the other. The names are those of the flags ``--max_image_*``."""

    pixels: int = 250_000_000
    ratio: float = 50.0


LIMITS = Limits()
IN_MEMORY = Place()


def open_image(
    stored: Any, enough: int | None = None, limits: Limits = LIMITS, find: Find = IN_MEMORY.file
) -> Image.Image:
    """An upright RGB image from what a cell holds, see ``cells.unpack``; ``find`` gives the file of
    a name.

    EXIF rotation is applied, transparent pixels are put on white, 16-bit and grey values are scaled
    to 8-bit RGB. With ``enough`` pixels a side, a JPEG of at least twice that size is decoded at
    1/2, 1/4 or 1/8 of it, never below ``enough``.

    Raises BadImage for what is no image, is damaged, or is beyond the ``limits``.
    """
    try:
        content = unpack(stored, find)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if isinstance(content, Image.Image):
                return upright(*loaded(content, enough, limits))
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
                return upright(*decoded(file, enough, limits))
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(other_kind(content)) from error
    except MemoryError as error:
        raise BadImage("takes more memory than there is") from error
    except Exception as error:  # decoders raise a different type for every damage
        raise BadImage(short(error) or type(error).__name__) from error


def is_video(content: bytes | Path | Image.Image) -> bool:
    """Whether a file is a video, by its first bytes."""
    head = head_of(content)
    mp4 = head[4:8] == b"ftyp" and head[8:12] not in PICTURE_BRANDS
    return mp4 or head.startswith(VIDEOS) or (head[:4], head[8:12]) == (b"RIFF", b"AVI ")


def other_kind(content: bytes | Path | Image.Image) -> str:
    """What a file is that Pillow knows as no image, by its first bytes."""
    head = head_of(content)
    if is_video(content):
        return "a video, and the model makes pictures"
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS:
        return "HEIC, which is not read; store it as JPEG or PNG"
    if head.startswith(POINTER):
        return LFS
    is_text = head.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] in (b"<", b"{")
    return "text (HTML, SVG or JSON), not an image" if is_text else UNKNOWN


def head_of(content: bytes | Path | Image.Image) -> bytes:
    """The first bytes of a file; none of what is an image already."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            return file.read(64)
    return content[:64] if isinstance(content, bytes) else b""


def decoded(file: BinaryIO, enough: int | None, limits: Limits) -> Loaded:
    """The loaded image of a file; where that fails over notes in it, without the notes."""
    try:
        with within(limits):
            return loaded(Image.open(file), enough, limits)
    except (BadImage, MemoryError):
        raise
    except Exception:
        file.seek(0)
        plain = without_notes(file.read())
        if plain is None:
            raise
        with within(limits):
            return loaded(Image.open(io.BytesIO(plain)), enough, limits)


def loaded(image: Image.Image, enough: int | None, limits: Limits) -> Loaded:
    """The image with its pixels in memory, and its full size.

    Raises BadImage where it is beyond the limits.
    """
    width, height = image.size
    check_size(width, height, limits)
    if image.format == "EPS":  # would be run by another program
        raise BadImage("EPS is a program, not an image, and is not run")
    if enough:  # the decoder then skips what scaling down would throw away
        image.draft(None, (enough, enough))
    image.load()
    return image, (height, width)


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raises BadImage for a size in pixels beyond the limits."""
    if not width * height:
        raise BadImage("has no pixels")
    if max(width, height) > limits.ratio * min(width, height):
        raise BadImage(
            f"{width} x {height} pixels: one side is more than {limits.ratio:g} times the other"
            " (--max_image_ratio)"
        )
    if width * height > limits.pixels:
        raise too_large(width * height, limits)


@contextmanager
def within(limits: Limits) -> Iterator[None]:
    """Makes Pillow refuse more pixels than the limit, also in an image inside another one.

    Its warning, which comes before it refuses, must be an error.
    """
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = limits.pixels
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as bomb:
        count = re.search(r"\((\d+) pixels\)", str(bomb))
        raise too_large(int(count[1]) if count else None, limits) from bomb
    finally:
        Image.MAX_IMAGE_PIXELS = before


def too_large(pixels: int | None, limits: Limits) -> BadImage:
    """The error for an image with more pixels than the limit."""
    count = "more" if pixels is None else f"{pixels:,} pixels, more"
    return BadImage(f"{count} than the {limits.pixels:,} of --max_image_pixels")


def without_notes(data: bytes) -> bytes | None:
    """A file without text, colour profile and other notes that pixels do not need; None for
    formats whose decoders do not stumble over them.

    PNG (ISO/IEC 15948, section 5): of the ancillary chunks only transparency and a sound EXIF are
    kept. AVIF (ISO/IEC 23008-12): its EXIF is entered as an item of another type.
    """
    if data[4:8] == b"ftyp":
        return EXIF_ITEM.sub(rb"\1note", data)
    if not data.startswith(PNG):
        return None
    parts, place = [PNG], len(PNG)
    while place + 8 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind, checksum = data[place + 4 : place + 8], data[end - 4 : end]
        sound = zlib.crc32(data[place + 4 : end - 4]).to_bytes(4, "big") == checksum
        # A capital first letter marks a chunk that pixels need.
        if kind[:1].isupper() or kind == b"tRNS" or (kind == b"eXIf" and sound):
            parts.append(data[place:end])
        place = end
    return b"".join(parts)


def upright(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image in 8-bit RGB, turned as a sound EXIF block says; ``size`` is its full size."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a block that is no TIFF says nothing about the pixels
        orientation = 1
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    rgb = to_rgb(image if turn is None else image.transpose(turn))
    # Orientations 5 to 8 exchange width and height.
    rgb.info[FULL_SIZE] = size[::-1] if turn is not None and orientation > 4 else size
    return rgb
