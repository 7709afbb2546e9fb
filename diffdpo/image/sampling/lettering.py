"""Captions on sheets, in letters of whatever script, as far as a font of this machine has them."""

from __future__ import annotations

import textwrap
import unicodedata
from functools import lru_cache

from PIL import ImageFont, features

SIZE = 13
# Fonts with many scripts, by the file names that systems have them under; Pillow's own has Latin.
FONTS = ["DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "msyh.ttc"]
FONTS += ["Arial Unicode.ttf", "arial.ttf", "NotoSansArabic-Regular.ttf", "NotoColorEmoji.ttf"]
MISSING = "\U0010ffff"  # no font has a letter for it
NO_PROMPT = "(no prompt)"
Font = ImageFont.FreeTypeFont


def lettered(caption: str, number: int) -> tuple[str, Font]:
    """A caption in at most three lines, and the font that has the most of its letters.

    Letters that it has not are written as their numbers, behind the ``number`` of the row.
    """
    text = " ".join(caption.split()) or NO_PROMPT
    font = min(fonts(), key=lambda font: sum(not has(font, letter) for letter in set(text)))
    shown = "".join(letter if has(font, letter) else escape(letter) for letter in text)
    return wrap(shown if shown == text else f"{number}: {shown}"), font


@lru_cache(maxsize=1)
def fonts() -> list[Font]:
    """Pillow's own font, and those of ``FONTS`` that are installed."""
    found = [ImageFont.load_default(SIZE)]
    for name in FONTS:
        try:
            found.append(ImageFont.truetype(name, SIZE))
        except OSError:  # not installed, or of another size alone
            continue
    return [font for font in found if isinstance(font, Font)]


@lru_cache(maxsize=10_000)
def has(font: Font, letter: str) -> bool:
    """Whether a font can draw a letter where it belongs."""
    if letter == " ":
        return True
    # Letters that run from right to left, or join, need a layout library.
    if unicodedata.bidirectional(letter) in ("R", "AL") and not features.check("raqm"):
        return False
    # A font draws all letters that it has not as the same box.
    return drawn(font, letter) not in (drawn(font, MISSING), drawn(font, ""))


def drawn(font: Font, text: str) -> tuple[tuple[int, int], bytes]:
    """The size and the pixels of a text."""
    mask = font.getmask(text)
    return mask.size, bytes(mask)


def escape(letter: str) -> str:
    """The number of a letter, as Python writes it."""
    return letter.encode("unicode_escape", errors="replace").decode()


def wrap(text: str, width: int = 26) -> str:
    """A text in at most three lines."""
    return "\n".join(textwrap.wrap(text, width, max_lines=3, placeholder=" …"))
