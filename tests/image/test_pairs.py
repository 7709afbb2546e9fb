"""Ties, labels, broken files, crops: what a pair becomes before training sees it."""

import json

import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature

from diffdpo.data.image_formats import IMAGE_FORMATS, detect
from diffdpo.data.source import open_dataset
from diffdpo.errors import UserError
from diffdpo.image.pairs import FrameSettings, image_pairs
from diffdpo.image.pixels import open_image
from tests.factory import encoded, make_pairs, pickapic_rows, picture

PLAIN = FrameSettings(seed=0, resolution=32)


def load(rows, framing=PLAIN):
    return image_pairs(Dataset.from_list(rows), framing, "somewhere", (None, None))


def stored(name, index):
    """A row of the format, first image preferred."""
    row = IMAGE_FORMATS[name]
    values = {row.first: encoded(picture(2 * index)), row.second: encoded(picture(2 * index + 1))}
    return {**values, row.prompt: f"p{index}", **dict.fromkeys(row.labels, 1.0)}


@pytest.mark.parametrize("name", IMAGE_FORMATS)
def test_every_format_is_told_by_its_columns_and_keeps_the_winner(name):
    pairs = load([stored(name, i) for i in range(3)])
    item = pairs.read(1, 0)
    expected = [picture(2).getpixel((0, 0)), picture(3).getpixel((0, 0))]
    colours = [
        tuple(((x.pixels_CHW[:, 0, 0] + 1) * 127.5).round().int().tolist())
        for x in (item.chosen, item.rejected)
    ]
    assert colours == expected
    assert (item.prompt, item.pair, item.outcome) == ("p1", 1, 1.0)


def test_an_unknown_format_names_what_it_found_and_what_it_needs():
    with pytest.raises(
        UserError, match=r"image, text; needed are pick-a-pic: jpg_0, jpg_1, caption, label_0"
    ):
        detect(["image", "text"])
    assert detect(["a", "rejected", "b"], "a", "b").first == "a"


def test_labels_point_to_the_winner_and_ties_are_dropped_or_kept():
    rows = pickapic_rows(6, ties=2)
    dropped = load(rows)
    assert (len(dropped), dropped.tally.ties) == (4, 2)
    for index, row in enumerate(dropped.rows):
        winner = rows[row]["jpg_0"] if rows[row]["label_0"] == 1 else rows[row]["jpg_1"]
        first_pixel = torch.tensor(open_image(winner).getpixel((0, 0))) / 127.5 - 1
        assert torch.allclose(dropped.read(index, 0).chosen.pixels_CHW[:, 0, 0], first_pixel)
    kept = load(rows, FrameSettings(0, 32, ties="soft"))
    assert [kept.read(i, 0).outcome for i in range(6)] == [1, 1, 1, 1, 0.5, 0.5]


def test_the_control_tosses_a_coin_for_every_label():
    rows = pickapic_rows(60)
    honest, control = load(rows), load(rows, FrameSettings(1, 32, random_labels=True))
    kept = (honest.first_wins == control.first_wins).mean()
    assert 0.3 < kept < 0.7
    assert len(control) == 60


def test_only_ties_is_an_error():
    with pytest.raises(UserError, match="all 3 rows are ties"):
        load(pickapic_rows(3, ties=3))


def test_broken_labels_are_counted_or_refused():
    rows = pickapic_rows(40)
    rows[7]["label_0"] = 0.3  # label_1 no longer adds up
    assert load(rows).tally.unlabelled == 1
    for row in rows[:10]:
        row["label_0"] = None
    with pytest.raises(UserError, match=r"10 of 40 labels .* .first in row 0"):
        load(rows)


def test_unreadable_images_are_named_and_skipped_when_few():
    rows = pickapic_rows(40)
    rows[3]["jpg_1"] = b"broken"
    pairs = load(rows)
    pairs.check(quiet=True)
    assert len(pairs) == 39
    assert pairs.tally.unreadable[0].startswith("row 3: ")
    for row in rows[:5]:
        row["jpg_0"] = b"broken"
    with pytest.raises(UserError, match=r"5 of 40 pairs are unreadable \(row 0"):
        load(rows).check(quiet=True)


def test_in_a_large_set_the_next_row_stands_in(monkeypatch, capsys):
    monkeypatch.setattr("diffdpo.image.pairs.CHECK_UP_TO", 5)
    rows = pickapic_rows(30)
    rows[3]["jpg_1"] = b"broken"
    pairs = load(rows)
    pairs.check(quiet=True)
    assert not pairs.tally.checked
    assert [pairs.read(row, 0).pair for row in (2, 3, 4)] == [2, 4, 4]
    assert "row 3" in capsys.readouterr().err
    for row in rows:
        row["jpg_0"] = b"broken"
    with pytest.raises(UserError, match="unreadable"):
        load(rows).read(0, 0)


def test_both_sides_share_flip_and_crop_and_visits_differ():
    image = encoded(picture(5, (60, 40)))
    rows = [{"chosen": image, "rejected": image, "prompt": "same"}]
    pairs = load(rows, FrameSettings(0, 32, random_crop=True, flip=True))
    seen = set()
    for visit in range(12):
        item = pairs.read(0, visit)
        assert torch.equal(item.chosen.pixels_CHW, item.rejected.pixels_CHW)
        assert item.chosen.crop_top_left == item.rejected.crop_top_left
        seen.add(item.chosen.pixels_CHW.sum().item())
    assert len(seen) > 8


def test_a_subset_is_picked_by_the_seed():
    subsets = []
    for seed in (0, 0, 1):
        pairs = load(pickapic_rows(20))
        pairs.limit(5, seed)
        subsets.append(pairs.rows.tolist())
    assert subsets[0] == subsets[1] != subsets[2]
    assert len(subsets[0]) == 5


def test_the_fingerprint_follows_labels_and_prompts():
    rows = pickapic_rows(4)
    before = load(rows).fingerprint
    assert load(rows).fingerprint == before
    rows[0] |= {"label_0": 0.0, "label_1": 1.0}
    assert load(rows).fingerprint != before


def folder_of_files(folder):
    folder.mkdir()
    lines = []
    for index in range(3):
        for side in ("chosen", "rejected"):
            picture(index).save(folder / f"{side}-{index}.png")
        lines.append(
            {
                "chosen": f"chosen-{index}.png",
                "rejected": f"rejected-{index}.png",
                "prompt": f"p{index}",
            }
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def saved(folder):
    dataset = Dataset.from_list(pickapic_rows(3)).cast_column("jpg_0", ImageFeature())
    dataset.save_to_disk(folder)
    return folder


@pytest.mark.parametrize("make", [folder_of_files, saved, lambda folder: make_pairs(folder, 3)])
def test_every_source_gives_three_pairs(tmp_path, make):
    folder = make(tmp_path / "data")
    dataset = open_dataset(str(folder), "train", cache_dir=str(tmp_path / "cache"))
    pairs = image_pairs(dataset, PLAIN, str(folder), (None, None))
    pairs.check(quiet=True)
    assert len(pairs) == 3
    assert pairs.read(2, 0).chosen.pixels_CHW.shape == (3, 32, 32)
