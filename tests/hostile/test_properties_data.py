"""Properties of the readers of data: whatever the input is, it is read or refused in one short
line."""

import json
from pathlib import PurePath

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("hypothesis", reason="comes with the dev extra")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffdpo.data.cells import BadImage
from diffdpo.data.columns import closest, listed
from diffdpo.data.decode import open_image
from diffdpo.data.image_formats import detect
from diffdpo.data.places import BadName, Place
from diffdpo.data.source import open_dataset
from diffdpo.data.splits import BUILDERS, by_split, chosen
from diffdpo.errors import UserError
from diffdpo.image.reading.captions import prompts_of
from diffdpo.image.sampling.lettering import lettered
from tests.factory import encoded, picture

quick = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONGEST = 300  # letters of a reason that stands in an error line
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
cells = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["bytes", "path", "url"]) | st.text(), inner, max_size=3)
    ),
    max_leaves=12,
)


def reason(error, call):
    """What an error of this type says, None where the call succeeds."""
    try:
        call()
    except error as refused:
        return str(refused)
    return None


def is_short(text):
    return text is None or 0 < len(text) <= LONGEST


@quick
@given(cells)
def test_any_cell_is_an_image_or_a_short_reason(cell):
    assert is_short(reason(BadImage, lambda: open_image(cell)))


@quick
@given(st.binary(max_size=40), st.integers(0, 400), st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]))
def test_bytes_in_the_place_of_others_are_an_image_or_a_short_reason(noise, place, format):
    data = bytearray(encoded(picture(1), format))
    data[place : place + len(noise)] = noise
    assert is_short(reason(BadImage, lambda: open_image(bytes(data), enough=8)))


sides = st.sampled_from([2, 5, 6, 9])  # none of which could be the number of channels


@quick
@given(sides, sides, st.sampled_from([1, 3, 4]), st.booleans(), st.randoms())
def test_an_array_is_the_same_image_in_both_orders_of_its_sides(high, wide, deep, fractions, dice):
    values = np.array([dice.randrange(256) for _ in range(high * wide * deep)], np.uint8)
    values = values.reshape(high, wide, deep)
    stored = values / 255 if fractions else values
    image = open_image(stored)
    assert np.array_equal(image, open_image(np.moveaxis(stored, 2, 0)))
    assert np.array_equal(image, values[:, :, :3]) or deep != 3


@quick
@given(st.lists(cells, max_size=5), st.integers())
def test_captions_become_text_or_one_line(captions, seed):
    refused = reason(UserError, lambda: prompts_of(captions, "caption", seed))
    assert is_short(refused)
    if refused is None:
        prompts = prompts_of(captions, "caption", seed)
        assert all(isinstance(prompt, str) for prompt in prompts)
        assert prompts == prompts_of(captions, "caption", seed)


@quick
@given(st.text(max_size=80), st.integers(0, 99))
def test_any_caption_has_three_lines_at_most_that_can_be_drawn(caption, number):
    text, font = lettered(caption, number)
    assert text
    assert text.count("\n") <= 2
    font.getmask(text.replace("\n", " "))


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


@quick
@given(st.lists(names, min_size=1, max_size=20), names, names)
def test_any_columns_are_a_format_or_a_short_line(columns, one, other):
    assert len(listed(columns)) <= 200
    assert "lacks" in closest(columns, {"a": ["chosen", "rejected"], "b": [one, "x" * 50]}) or (
        one in columns
    )
    refused = reason(UserError, lambda: detect(columns, {"chosen": one, "prompt": other}))
    assert refused is None or len(refused) <= 2 * 600  # of two flags
    assert len(reason(UserError, lambda: detect([*columns, "x"])) or "") <= 600


parts = st.sampled_from(["train", "test", "data", "dev", "a", "portraits", "my_test", "valid-2"])
paths = st.builds(
    lambda folders, name, ending: "/".join([*folders, name + ending]),
    st.lists(parts, max_size=2),
    parts,
    st.sampled_from(list(BUILDERS)),
)


@quick
@given(st.lists(paths, min_size=1, max_size=6, unique=True))
def test_every_file_is_in_one_split_and_a_split_is_asked_for_by_its_name(files):
    folder = PurePath("/set")
    splits = by_split(folder, [folder / file for file in files])
    inside = [file for group in splits.values() for file in group]
    assert sorted(inside) == sorted(folder / file for file in files)
    assert "" not in splits or "train" in splits
    for split in filter(None, splits):
        assert chosen("set", splits, split) == splits[split]
    with pytest.raises(UserError, match="has no split 'no such split'; found "):
        chosen("set", splits, "no such split")


@quick
@given(st.lists(st.sampled_from(["..", ".", "sub", "x.png", "a"]), min_size=1, max_size=6))
def test_a_relative_name_never_leads_out_of_the_data_folder(tmp_path, steps):
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    for place in (tmp_path, folder, folder / "sub"):
        (place / "x.png").touch()
    place, name = Place.of(str(folder)), "/".join(steps)
    refused = reason(BadName, lambda: place.file(name, folder / "sub"))
    assert is_short(refused)
    if refused is None:
        found = place.file(name, folder / "sub")
        assert found.resolve().is_relative_to(folder)
        assert found.is_file()


lines = st.binary(max_size=60) | st.builds(
    lambda row: json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass"),
    st.dictionaries(
        st.sampled_from(["chosen", "rejected", "prompt"]),
        st.text(max_size=9) | st.none() | st.integers() | st.lists(st.integers(), max_size=2),
    ),
)


@settings(quick, max_examples=40)
@given(st.lists(lines, max_size=4))
def test_any_json_lines_are_rows_or_one_short_line(tmp_path, content):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\n".join(content))

    def read():
        rows = open_dataset(str(file), "train", cache_dir=str(tmp_path / "cache"))
        assert len(list(rows)) == len(rows) > 0

    assert len(reason(UserError, read) or "") <= len(str(file)) * 2 + LONGEST


def test_a_picture_in_memory_is_not_changed():
    image = Image.new("RGB", (4, 4))
    open_image(image)
    assert not image.info
