"""Every format of image pairs: told by its columns, the winner stays the winner, rankings become
pairs."""

import json
import math

import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from datasets import Sequence as List

from diffdpo.data.image_formats import IMAGE_FORMATS, detect
from diffdpo.data.source import open_with_folders
from diffdpo.errors import UserError
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.pictures.side_columns import SideSettings
from diffdpo.image.reading.pairs import image_pairs
from tests.factory import encoded, picture

SOFT = FrameSettings(seed=0, resolution=32, ties="soft")


def plain(name):
    """Two rows of the format, the first image preferred."""
    row = IMAGE_FORMATS[name]
    labels = dict.fromkeys(row.labels, 1.0)
    rows = [
        {row.first: f"{2 * i}.png", row.second: f"{2 * i + 1}.png", row.prompt: f"p{i}", **labels}
        for i in range(2)
    ]
    return rows, [("p0", 0, 1, 1), ("p1", 2, 3, 1)]


def names(*numbers):
    return [f"{number}.png" for number in numbers]


def votes(first, second):
    words = {"prompt": "p", "image1": "0.png", "image2": "1.png", "model1": "a", "model2": "b"}
    return {**words, "votes_image1": first, "votes_image2": second, "detailed_results": "[]"}


def preferred(*words):
    images = {"image_1": "0.png", "image_2": "1.png"}
    return {"id": "7", "images": images, "prompt": "p", "preference.responses": list(words)}


def rated(prompt, picture, rank):
    own = {"prompt_id": prompt, "prompt": f"{prompt}!", "classification": "x"}
    return {**own, "image": f"{picture}.png", "image_amount_in_total": 3, "rank": rank}


# By format: rows as the set itself has them, and the pairs (prompt, chosen, rejected, P) in them.
SAMPLES = {
    "HPDv2 pairs": (
        [
            {"prompt": "p", "file_path": names(0, 1), "human_preference": [1, 0]},
            {"prompt": "q", "file_path": names(2, 3), "human_preference": [0, 1]},
        ],
        [("p", 0, 1, 1), ("q", 3, 2, 1)],
    ),
    "HPDv2 pairs by image_path": (
        [{"prompt": "p", "image_path": names(0, 1), "human_preference": [0, 1]}],
        [("p", 1, 0, 1)],
    ),
    "HPDv2 rankings": (
        [
            {"prompt": "p", "image_path": names(0, 1, 2), "rank": [2, 0, 1]},
            {"prompt": "q", "image_path": names(3, 4), "rank": [1, 1]},
        ],
        [("p", 1, 0, 1), ("p", 2, 0, 1), ("p", 1, 2, 1), ("q", 3, 4, 0.5)],
    ),
    "HPDv2 left and right": (
        [
            {"prompt": "p", "image_left_id": "0", "image_right_id": "1", "pref": 1, "user_id": 4},
            {"prompt": "q", "image_left_id": "2", "image_right_id": "3", "pref": -1, "user_id": 4},
        ],
        [("p", 0, 1, 1), ("q", 3, 2, 1)],
    ),
    "HPDv3": (
        [{"prompt": "p", "path1": "0.png", "path2": "1.png", "confidence": 0.97, "model1": "a"}],
        [("p", 0, 1, 1)],
    ),
    "HPDv3 votes": (
        [{"prompt": "p", "path1": "0.png", "path2": "1.png", "choice_dist": [12, 4]}],
        [("p", 0, 1, 0.75)],
    ),
    "ImageRewardDB": (
        [{"id": "7", "prompt": "p", "generations": names(0, 1, 2), "ranking": [5, 1, 5]}],
        [("p", 1, 0, 1), ("p", 0, 2, 0.5), ("p", 1, 2, 1)],
    ),
    "ImageRewardDB pairs": (
        [{"prompt_id": "7", "prompt": "p", "img_better": "0.png", "img_worse": "1.png"}],
        [("p", 0, 1, 1)],
    ),
    "ImageRewardDB images": (
        [rated("a", 0, 2), rated("b", 1, 1), rated("a", 2, 1), rated("b", 3, 4), rated("a", 4, 2)],
        [("a!", 2, 0, 1), ("a!", 0, 4, 0.5), ("a!", 2, 4, 1), ("b!", 1, 3, 1)],
    ),
    "ImageRewardDB groups": (
        [{"prompt_id": "7", "prompt": "p", "image": names(0, 1), "rank": [2, 1]}],
        [("p", 1, 0, 1)],
    ),
    "Rapidata votes": ([votes(6, 18), votes(5, 5)], [("p", 1, 0, 0.75), ("p", 0, 1, 0.5)]),
    "Pick-a-Pic rankings": (
        [
            {
                "prompt": "p",
                "ranking_id": 3,
                "best_image_uid": "2",
                **{f"image_{n + 1}_uid": str(n) for n in range(4)},
            }
        ],
        [("p", 2, 0, 1), ("p", 2, 1, 1), ("p", 2, 3, 1)],
    ),
    "open-image-preferences": (
        [preferred("image_2", "image_2", "both_good", "image_1"), preferred("both_bad")],
        [("p", 1, 0, 0.625), ("p", 0, 1, 0.5)],
    ),
}


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        picture(number).save(tmp_path / f"{number}.png")
    return tmp_path


def opened(folder, rows, requested=None, framing=SOFT):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = open_with_folders(str(path), "train", cache_dir=str(folder / "cache"))
    return image_pairs(loaded, framing, str(path), requested=requested)


def colour(image):
    return tuple(((image.pixels_CHW[:, 0, 0] + 1) * 127.5).round().int().tolist())


def read(pairs):
    """The pairs as in the samples."""
    number = {picture(n).getpixel((0, 0)): n for n in range(5)}
    items = [pairs.read(row, 0) for row in range(len(pairs))]
    return [
        (item.prompt, number[colour(item.chosen)], number[colour(item.rejected)], item.outcome)
        for item in items
    ]


@pytest.mark.parametrize("name", IMAGE_FORMATS)
def test_every_format_is_told_by_its_columns_and_keeps_the_winner(name, folder):
    rows, expected = SAMPLES[name] if name in SAMPLES else plain(name)
    told = next(row for row in IMAGE_FORMATS if IMAGE_FORMATS[row] is detect(list(rows[0])))
    assert told == ("HPDv3" if name == "HPDv3 votes" else name)
    pairs = opened(folder, rows, requested=name)
    pairs.check(quiet=True)
    assert read(pairs) == expected
    assert len(pairs.fingerprint) == 16
    with_expand = IMAGE_FORMATS[name].expand is not None
    assert (pairs.tally.rankings is not None) == with_expand


def test_a_ranking_is_dropped_where_it_ties_and_says_how_many_pairs_it_gave(folder):
    rows, expected = SAMPLES["ImageRewardDB"]
    pairs = opened(folder, rows, framing=FrameSettings(seed=0, resolution=32))
    assert (pairs.tally.rows, pairs.tally.rankings, pairs.tally.ties) == (3, 1, 1)
    assert read(pairs) == [pair for pair in expected if pair[3] == 1]


def test_pictures_of_no_ranking_are_compared_with_nothing_and_counted(folder):
    lost = [{**rated("c", number, number), "prompt_id": None} for number in (0, 1)]
    with pytest.raises(UserError, match=r"2 of 4 rankings cannot be read \(first in row 5\)"):
        opened(folder, [*SAMPLES["ImageRewardDB images"][0], *lost])


def test_pictures_in_the_table_are_ranked_without_a_copy_of_each_pair():
    cells = [[encoded(picture(n)) for n in (0, 1, 2)], None, [encoded(picture(3))]]
    rows = Dataset.from_dict(
        {"prompt": list("pqr"), "image": cells, "rank": [[1, 2, 3], [], [1]]}
    ).cast_column("image", List(ImageFeature()))
    pairs = image_pairs(rows, SOFT)
    assert read(pairs) == [("p", 0, 1, 1), ("p", 0, 2, 1), ("p", 1, 2, 1)]
    assert len(pairs.ranked.pictures) == 4
    marks = pairs.stored.marks(pairs.rows)
    assert marks[0][0] == marks[0][1] == (len(cells[0][0]), 0)
    assert marks[1][1] == marks[1][2] == (len(cells[0][2]), 0)


def test_rankings_that_cannot_be_read_are_counted_or_refused(folder):
    good, _ = SAMPLES["ImageRewardDB"]
    bad = {**good[0], "ranking": [1, 2]}
    pairs = opened(folder, [bad, *good * 19])
    assert (pairs.tally.unlabelled, len(pairs)) == (1, 57)
    with pytest.raises(UserError, match=r"2 of 3 rankings cannot be read \(first in row 1\)"):
        opened(folder, [*good, bad, bad])
    with pytest.raises(UserError, match="none of the 1 rankings has two pictures"):
        opened(folder, [{**good[0], "generations": names(0), "ranking": [1]}])
    with pytest.raises(UserError, match="column generations holds string; a ranking has a list"):
        opened(folder, [{**good[0], "generations": "0.png"}])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("HPDv2 left and right", {"pref": 2}),
        ("HPDv3 votes", {"choice_dist": [3]}),
        ("HPDv3 votes", {"choice_dist": [0, 0]}),
        ("Rapidata votes", {"votes_image1": 0, "votes_image2": 0}),
        ("Rapidata votes", {"votes_image1": -1}),
        ("Pick-a-Pic rankings", {"best_image_uid": "elsewhere"}),
        ("open-image-preferences", {"preference.responses": ["image_3"]}),
        ("open-image-preferences", {"preference.responses": []}),
    ],
)
def test_labels_that_say_nothing_are_no_labels(name, change, folder):
    rows, expected = SAMPLES[name]
    pairs = opened(folder, [{**rows[0], **change}, *rows], requested=name)
    assert math.isnan(pairs.first_wins[0])
    assert pairs.tally.unlabelled == 1
    assert read(pairs) == expected


def test_a_name_without_an_ending_is_that_of_the_picture(folder):
    rows, expected = SAMPLES["HPDv2 left and right"]
    (folder / "2").mkdir()  # a folder of that name is no picture
    pairs = opened(folder, rows)
    pairs.check(quiet=True)
    assert "row 1: column image_left_id: '2' is a folder" in pairs.tally.unreadable[0]
    (folder / "2").rmdir()
    assert read(opened(folder, rows)) == expected


@pytest.mark.parametrize(
    ("beside", "flag"),
    [({"scores": "s"}, "score_column"), ({"noise": True}, "given_noise"), ({"mask": "m"}, "mask")],
)
def test_columns_of_pairs_are_refused_beside_rankings(beside, flag, folder):
    rows, _ = SAMPLES["ImageRewardDB"]
    framing = FrameSettings(seed=0, resolution=32, beside=SideSettings(**beside))
    with pytest.raises(UserError, match=f"--{flag}.* reads columns of pairs"):
        opened(folder, rows, framing=framing)


@pytest.mark.parametrize("sides", [("chosen", "rejected"), ("w", "l")])
@pytest.mark.parametrize("under", [".", "train"])
def test_two_folders_of_pictures_are_pairs(sides, under, tmp_path, capsys):
    place = tmp_path / under
    for side, numbers in zip(sides, ((0, 2), (1, 3)), strict=True):
        (place / side / "more").mkdir(parents=True)
        for name, number in zip(("a.bmp", "more/b.JPG"), numbers, strict=True):
            picture(number).save(place / side / name, quality=100, subsampling=0)
    (place / sides[0] / "layers.psd").touch()
    (place / sides[0] / "a.txt").write_text("one\n")
    (place / sides[1] / "a.txt").write_text("another\n")
    (place / sides[1] / "more" / "b.txt").write_text("two\n")
    rows = open_with_folders(str(tmp_path), "train")
    assert "1 files are no pictures (layers.psd)" in capsys.readouterr().out
    pairs = image_pairs(rows, SOFT, str(tmp_path))
    pairs.check(quiet=True)
    assert pairs.prompts() == ["one", "two"]
    assert colour(pairs.read(0, 0).chosen) == picture(0).getpixel((0, 0))
    there, drawn = colour(pairs.read(1, 0).rejected), picture(3).getpixel((0, 0))
    near = [abs(a - b) for a, b in zip(there, drawn, strict=True)]
    assert max(near) < 8
    with pytest.raises(UserError, match="has no split 'test'"):
        open_with_folders(str(tmp_path), "test")
    # A file with rows says what the data are.
    line = json.dumps(
        {"chosen": f"{sides[1]}/a.bmp", "rejected": f"{sides[0]}/a.bmp", "prompt": "x"}
    )
    (place / "metadata.jsonl").write_text(line + "\n")
    listed = open_with_folders(str(tmp_path), "train", cache_dir=str(tmp_path / "cache"))
    assert listed["prompt"][:] == ["x"]


def test_pictures_without_a_partner_are_left_out_or_refused(tmp_path, capsys):
    for side in ("chosen", "rejected"):
        (tmp_path / side).mkdir()
        for number in range(3):
            picture(number).save(tmp_path / side / f"{number}.png")
    (tmp_path / "rejected" / "1.png").unlink()
    assert len(open_with_folders(str(tmp_path), "train")) == 2
    assert "1: no partner; left out" in capsys.readouterr().out
    (tmp_path / "chosen" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2 pictures have no partner .* .first 1"):
        open_with_folders(str(tmp_path), "train")
    picture(0).save(tmp_path / "chosen" / "0.webp")
    with pytest.raises(UserError, match=r"0.png and 0.webp: one name"):
        open_with_folders(str(tmp_path), "train")
