"""Captions on sheets are legible in any script, or told apart by number."""

import numpy as np
import pytest
from PIL import Image

from diffdpo.image.sampling import lettering
from diffdpo.image.sampling.lettering import fonts, has, lettered
from diffdpo.image.sampling.sample import sheet


@pytest.fixture
def own_font_only(monkeypatch):
    monkeypatch.setattr(lettering, "FONTS", [])
    fonts.cache_clear()
    yield
    fonts.cache_clear()


@pytest.mark.parametrize("caption", ["", "   ", "\n"])
def test_an_empty_prompt_is_shown_as_such(caption):
    assert lettered(caption, 3)[0] == "(no prompt)"


def test_latin_is_written_as_it_is(own_font_only):
    assert lettered("a red  kite\non a <b>string</b>", 0)[0] == "a red kite on a\n<b>string</b>"


def test_letters_that_no_font_has_are_written_as_numbers(own_font_only):
    text, font = lettered("塔 by the sea", 7)
    assert text == "7: \\u5854 by the sea"
    assert lettered("a 🐳", 7)[0] == "7: a \\U0001f433"
    assert lettered("кит", 8)[0].startswith("8: \\u043a\\u0438\\u0442")
    assert not has(font, "塔")
    assert has(font, "a")


def test_a_font_of_the_machine_is_taken_where_it_has_the_letters(own_font_only, monkeypatch):
    wide = fonts()[0]
    other = lettering.ImageFont.load_default(20)
    monkeypatch.setattr(lettering, "fonts", lambda: [wide, other])
    monkeypatch.setattr(lettering, "has", lambda font, letter: font is other or letter.isascii())
    assert lettered("кит", 0) == ("кит", other)
    assert lettered("kite", 0) == ("kite", wide)


def test_different_captions_look_different_on_a_sheet():
    grey = Image.new("RGB", (8, 8))
    captions = ["", "一座古老的灯塔", "кит в чашке", "مرحبا", "🐳", "☕"]
    page = np.asarray(sheet([(caption, [grey]) for caption in captions], ["policy"], cell=60))
    parts = {page[24 + 60 * row : 84 + 60 * row, :180].tobytes() for row in range(len(captions))}
    assert len(parts) == len(captions)
