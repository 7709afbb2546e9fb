"""Ties, labels, broken files, crops: what a pair becomes before training sees it."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from datasets import Sequence as List

from diffdpo.data.decode import open_image
from diffdpo.data.image_formats import detect
from diffdpo.data.source import open_with_folders
from diffdpo.errors import UserError
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.reading.pairs import image_pairs
from tests.factory import encoded, make_pairs, pickapic_rows, picture

PLAIN = FrameSettings(seed=0, resolution=32)


def load(rows, framing=PLAIN):
    return image_pairs(Dataset.from_list(rows), framing)


def test_an_unknown_format_names_what_it_found_and_what_it_needs():
    with pytest.raises(
        UserError, match=r"image, text; needed are pick-a-pic: jpg_0, jpg_1, caption, label_0"
    ):
        detect(["image", "text"])
    with pytest.raises(
        UserError, match=r"the nearest, chosen-rejected, lacks prompt .did you mean"
    ):
        detect(["chosen", "rejected", "prompts"])


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
    monkeypatch.setattr("diffdpo.image.reading.pairs.CHECK_UP_TO", 5)
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
    dataset = open_with_folders(str(folder), "train", cache_dir=str(tmp_path / "cache"))
    pairs = image_pairs(dataset, PLAIN, str(folder))
    pairs.check(quiet=True)
    assert len(pairs) == 3
    assert pairs.read(2, 0).chosen.pixels_CHW.shape == (3, 32, 32)


def test_columns_of_any_name_are_read_where_flags_name_them():
    rows = [
        {"winner": encoded(picture(0)), "loser": encoded(picture(1)), "text": "a", "score": 0.0}
    ]
    given = {"chosen": "winner", "rejected": "loser", "prompt": "text", "label": None}
    as_pair = image_pairs(Dataset.from_list(rows), PLAIN, None, given)
    labelled = image_pairs(Dataset.from_list(rows), PLAIN, None, {**given, "label": "score"})
    assert as_pair.read(0, 0).prompt == labelled.read(0, 0).prompt == "a"
    # By the label, 0, the second image is the chosen one.
    assert torch.equal(
        as_pair.read(0, 0).chosen.pixels_CHW, labelled.read(0, 0).rejected.pixels_CHW
    )
    assert as_pair.tally.unread_columns == ["score"]
    with pytest.raises(UserError, match=r"--rejected_column lose: .* .did you mean loser.."):
        image_pairs(Dataset.from_list(rows), PLAIN, None, {**given, "rejected": "lose"})


def test_another_label_column_is_read_without_the_second_half_of_the_old_one():
    rows = [{**row, "mine": 1 - row["label_0"]} for row in pickapic_rows(4)]
    pairs = image_pairs(Dataset.from_list(rows), PLAIN, None, {"label": "mine"})
    assert pairs.first_wins.tolist() == [row["mine"] for row in rows]


def test_no_caption_is_the_empty_prompt_and_counted():
    rows = pickapic_rows(6)
    for number in (1, 4):
        rows[number]["caption"] = None
    pairs = load(rows)
    assert pairs.prompts() == ["picture 0", "", "picture 2", "picture 3", "", "picture 5"]
    assert pairs.tally.without_prompt == 2


def test_of_several_captions_seed_and_row_choose_one():
    several = [["a", "b", "c", None]] * 40
    rows = [
        {**row, "caption": names} for row, names in zip(pickapic_rows(40), several, strict=True)
    ]
    rows[7]["caption"] = []
    drawn = load(rows).prompts()
    assert drawn == load(rows).prompts() != load(rows, FrameSettings(1, 32)).prompts()
    assert set(drawn) == {"a", "b", "c", ""}
    assert drawn.count("") == 1
    assert drawn[20:] == load(rows[:20] + rows[20:]).prompts()[20:]


@pytest.mark.parametrize("caption", [7, 1.5, True, {"en": "a"}, [3]])
def test_a_caption_that_is_no_text_is_refused(caption):
    rows = [{**row, "caption": caption} for row in pickapic_rows(3)]
    kind = type(caption[0] if isinstance(caption, list) else caption).__name__
    with pytest.raises(UserError, match=rf"column caption holds {kind} in row 0"):
        load(rows)


def test_one_bad_row_never_stops_a_set_but_no_good_row_does():
    rows = pickapic_rows(3)
    rows[1]["jpg_0"] = b"broken"
    pairs = load(rows)
    pairs.check(quiet=True)
    assert pairs.rows.tolist() == [0, 2]
    rows = pickapic_rows(3)
    rows[1] |= {"label_0": None, "label_1": None}
    assert load(rows).tally.unlabelled == 1
    rows = pickapic_rows(1)
    rows[0]["jpg_0"] = b"broken"
    with pytest.raises(UserError, match=r"1 of 1 pairs are unreadable .row 0: column jpg_0: "):
        load(rows).check(quiet=True)


def test_a_list_of_images_is_read_as_stored(tmp_path):
    broken = [{"chosen": [b"x"], "rejected": [encoded(picture(1))], "prompt": "p"}]
    good = [{**broken[0], "chosen": [encoded(picture(n))]} for n in range(3)]
    dataset = Dataset.from_list(good[:2] + broken)
    for column in ("chosen", "rejected"):
        dataset = dataset.cast_column(column, List(ImageFeature()))
    pairs = image_pairs(dataset, PLAIN)
    pairs.check(quiet=True)
    assert pairs.rows.tolist() == [0, 1]
    assert np.array_equal(pairs.images(1)[0], picture(1))


def test_a_label_flag_beside_pairs_says_which_columns_are_needed_as_well():
    columns = ["chosen", "rejected", "prompt", "label"]
    with pytest.raises(UserError, match=r"the nearest, pick-a-pic, lacks jpg_0, jpg_1, caption"):
        detect(columns, {"label": "label"})
    roles = {"chosen": "chosen", "rejected": "rejected", "prompt": "prompt", "label": "label"}
    assert detect(columns, roles).first == "jpg_0"
