"""Which files the rows of a data set may name, and what tells one set of pictures from another."""

import json
import os

import numpy as np
import pytest
from datasets import Dataset

from diffdpo.data.source import open_with_folders
from diffdpo.errors import UserError
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.reading.pairs import image_pairs
from tests.factory import encoded, pickapic_rows, picture

PLAIN = FrameSettings(seed=0, resolution=32)


def load(rows):
    return image_pairs(Dataset.from_list(rows), PLAIN)


def picture_file(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)
    return path


def listing(path, *names):
    """A metadata file of rows that name these files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        lines = ["chosen_file_name,rejected_file_name,prompt", *(f"{n},{n},p" for n in names)]
    else:
        keys = ("chosen_file_name", "rejected_file_name")
        lines = [json.dumps(dict.fromkeys(keys, name) | {"prompt": "p"}) for name in names]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def read_all(name, tmp_path):
    """The pairs of a data set, checked, with errors in full."""
    rows = open_with_folders(str(name), "train", cache_dir=str(tmp_path / "cache"))
    pairs = image_pairs(rows, PLAIN, str(name))
    pairs.check(quiet=True)
    return pairs


@pytest.mark.parametrize("kind", ["metadata.jsonl", "metadata.csv", "pairs.jsonl"])
@pytest.mark.parametrize("named", ["folder", "split folder", "file"])
def test_file_names_are_relative_to_the_file_that_holds_them(tmp_path, monkeypatch, kind, named):
    split = tmp_path / "set" / "train"
    picture_file(split / "img" / "0.png", 5)
    file = listing(split / kind, "img/0.png")
    listing(tmp_path / "set" / "validation" / kind, "img/none.png")
    name = {"folder": tmp_path / "set", "split folder": split, "file": file}[named]
    for place in (tmp_path, split):
        monkeypatch.chdir(place)
        assert np.array_equal(read_all(name, tmp_path).images(0)[0], picture(5))


def test_two_folders_of_one_split_each_name_their_own_files(tmp_path):
    for seed, folder in enumerate("ab"):
        picture_file(tmp_path / "set" / "train" / folder / "0.png", seed)
        listing(tmp_path / "set" / "train" / folder / "metadata.jsonl", "0.png")
    pairs = read_all(tmp_path / "set", tmp_path)
    for seed in (0, 1):
        assert np.array_equal(pairs.images(seed)[0], picture(seed))
    assert pairs.tally.unread_columns == []


def test_absolute_names_in_a_local_file_are_read(tmp_path):
    away = picture_file(tmp_path / "elsewhere" / "x.png")
    assert len(read_all(listing(tmp_path / "set" / "a.jsonl", str(away)), tmp_path)) == 1


def escapes(tmp_path):
    """Names that must not be read, and what is said."""
    folder, away = tmp_path / "set", picture_file(tmp_path / "elsewhere" / "x.png")
    folder.mkdir()
    (folder / "link.png").symlink_to(away)
    (folder / "links").symlink_to(away.parent)
    (folder / "loop.png").symlink_to("loop.png")
    os.mkfifo(folder / "pipe.png")
    return {
        "../elsewhere/x.png": "leads out of the data folder",
        "link.png": "leads out of the data folder",
        "links/x.png": "leads out of the data folder",
        "pipe.png": "a pipe or a device",
        ".": "is a folder",
        "/dev/zero": "a pipe or a device",
        "loop.png": "no such file",
        "none.png": "no such file",
        "a\0b.png": "no such file",
        "https://example.org/a.png": "web addresses are not fetched",
        "": "empty",
    }


def test_names_that_leave_the_folder_and_what_is_no_file_are_bad_rows(tmp_path):
    for name, line in escapes(tmp_path).items():
        with pytest.raises(UserError, match=f"row 0: column chosen_file_name: .*{line}"):
            read_all(listing(tmp_path / "set" / "metadata.jsonl", name), tmp_path)


def test_a_data_set_from_the_hub_names_no_files_of_this_machine(tmp_path):
    path = picture_file(tmp_path / "x.png")
    rows = [{"chosen": {"bytes": None, "path": str(path)}, "rejected": encoded(picture(1))}]
    rows = [{**row, "rejected": row["chosen"], "prompt": "p"} for row in rows]
    with pytest.raises(UserError, match="data from the hub may not"):
        image_pairs(Dataset.from_list(rows), PLAIN, "user/set").check(quiet=True)
    # What the hub's own library downloaded for the data set is read.
    (tmp_path / "downloads").mkdir()
    rows[0]["chosen"]["path"] = str(picture_file(tmp_path / "downloads" / "x.png"))
    rows[0]["rejected"] = rows[0]["chosen"]
    pairs = image_pairs(Dataset.from_list(rows), PLAIN, "user/set", cache_dir=str(tmp_path))
    pairs.check(quiet=True)
    image_pairs(Dataset.from_list(rows), PLAIN).check(quiet=True)  # handed over in memory


def test_links_inside_the_cache_of_the_hub_are_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    blob = picture_file(tmp_path / "hub" / "datasets--a--b" / "blobs" / "x.png")
    folder = tmp_path / "hub" / "datasets--a--b" / "snapshots" / "1"
    folder.mkdir(parents=True)
    (folder / "0.png").symlink_to(blob)
    assert len(read_all(listing(folder / "metadata.jsonl", "0.png"), tmp_path)) == 1


@pytest.mark.parametrize("as_file", [True, False])
def test_replaced_images_change_the_fingerprint_and_another_copy_does_not(tmp_path, as_file):
    def fingerprint(seed):
        path = picture_file(tmp_path / "set" / "0.png", seed)
        if as_file:
            return read_all(listing(tmp_path / "set" / "metadata.jsonl", "0.png"), tmp_path)
        content = path.read_bytes()
        return load([{"chosen": content, "rejected": content, "prompt": "p"}])

    first = fingerprint(0).fingerprint
    assert fingerprint(1).fingerprint != first
    again = fingerprint(0)
    os.utime(tmp_path / "set" / "0.png", ns=(1, 1))
    assert again.fingerprint == first


def test_of_a_large_set_sizes_and_a_sample_make_the_fingerprint(monkeypatch):
    monkeypatch.setattr("diffdpo.image.reading.pairs.READ", 2)
    rows = pickapic_rows(9)
    before = load(rows).fingerprint
    rows[3]["jpg_0"] += b"x"  # not read, but longer
    assert load(rows).fingerprint != before
