"""The sheet of an evaluation: what is on it, and that no more is read than that."""

import numpy as np
from PIL import Image

from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.reading.inputs import open_pairs
from diffdpo.image.sampling.comparison import SHEET_ROWS, picture_page, preferred_pictures
from diffdpo.image.sampling.samples import PictureFiles, Plan
from diffdpo.image.settings import ImageDataSettings
from tests.factory import picture

CELL, LEFT, TOP = 128, 190, 24  # of ``sheet``


def plain(colour):
    return Image.new("RGB", (32, 32), colour)


def middle(page, row, column):
    """The colour in the middle of a cell."""
    return page.getpixel((LEFT + CELL * column + CELL // 2, TOP + CELL * row + CELL // 2))


def test_chosen_and_rejected_stand_before_the_networks():
    page = picture_page(
        ["a", "b"],
        {"reference": [plain("red"), plain("red")], "policy": [plain("blue"), plain("blue")]},
        {"a": (plain("white"), plain("black"))},
    )
    # Four columns: two sheets of one row beside each other.
    assert page.size == (2 * (LEFT + 4 * CELL) + 20, TOP + CELL)
    shown = [middle(page, 0, column) for column in range(4)]
    assert shown == [(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)]
    without = picture_page(["c"], {"reference": [plain("red")], "policy": [plain("blue")]}, {})
    assert without.size == (LEFT + 2 * CELL, TOP + CELL)


def test_a_sheet_reads_its_own_rows_alone(tmp_path):
    paths = []
    for number in range(SHEET_ROWS):
        paths.append(tmp_path / f"{number}.png")
        plain((number, 0, 0)).save(paths[-1])
    files = PictureFiles([*paths, tmp_path / "not there.png"])
    prompts = [str(number) for number in range(SHEET_ROWS + 1)]
    page = picture_page(prompts, {"reference": files}, {})
    assert middle(page, 3, 0) == (3, 0, 0)


def test_preferred_pictures_are_the_first_pair_of_a_prompt(pairs):
    """The winner stands left and right in turn in these rows."""
    settings = ImageDataSettings(dataset_name=str(pairs), dataset_split_name="train")
    data = open_pairs(settings, FrameSettings(0, 32))
    found = preferred_pictures(data, ["picture 0", "picture 3", "no such prompt"])
    assert set(found) == {"picture 0", "picture 3"}
    for prompt, (chosen, rejected) in {"picture 0": (0, 1), "picture 3": (7, 6)}.items():
        for side, seed in zip(found[prompt], (chosen, rejected), strict=True):
            gap = np.asarray(side, dtype=float) - np.asarray(picture(seed), dtype=float)
            assert np.abs(gap).mean() < 12  # rows are JPEG


def test_more_prompts_or_pictures_leave_the_seeds_of_others_as_they_were():
    short, long = Plan(["a", "b"], 2, 7), Plan(["a", "b", "c"], 2, 7)
    assert long.pictures[:4] == short.pictures
    assert long.more(5)[:6] == short.more(5)
    assert [p.number for p in short.more(4)] == [2, 3, 2, 3]
    assert short.more(4) == [p for p in short.more(5) if p.number < 4]
    assert short.more(2) == short.more(0) == []
    seeds = [p.seed for p in long.pictures + long.more(6)]
    assert len(set(seeds)) == len(seeds)
