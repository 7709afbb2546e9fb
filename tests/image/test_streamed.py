"""Streamed pairs are the pairs of the same rows loaded whole; only their order is another."""

import pickle
import shutil
import tracemalloc
from dataclasses import replace

import pyarrow
import pytest
import torch
from datasets import Dataset
from pyarrow import parquet

from diffdpo.data.streams.table import StreamTable
from diffdpo.engine.batches import Stream, positions, step_batches
from diffdpo.errors import UserError
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.pictures.side_columns import SideSettings
from diffdpo.image.reading.pairs import image_pairs
from diffdpo.image.reading.streamed import streamed_pairs
from tests.commands.image_runs import flags, metrics, same, train, weights
from tests.conftest import script
from tests.data.shards import parquet_shards, tar_shards
from tests.factory import encoded, pickapic_rows, picture
from tests.processes import run_two

FRAMING = FrameSettings(0, 32, random_crop=True, flip=True)
KINDS = pytest.mark.parametrize("kind", ["parquet", "tar"])


def in_tar(row):
    """A row of Pick-a-Pic as the files of a row in a tar file."""
    pictures = {f"{side}.jpg": row[side] for side in ("jpg_0", "jpg_1")}
    numbers = {name: row[name] for name in ("label_0", "label_1", "model_0", "model_1")}
    return {**pictures, "caption.txt": row["caption"], "json": numbers}


def streamed(kind, folder, rows, framing=FRAMING, buffer=12, **given):
    data = folder / f"{kind}-data"
    shutil.rmtree(data, ignore_errors=True)
    if kind == "parquet":
        parquet_shards(data, rows)
    else:
        tar_shards(data, [in_tar(row) for row in rows])
    table = StreamTable.open(str(data), "train", None, "--split", str(folder / "c"), buffer, True)
    return streamed_pairs(table, framing, str(data), given)


def equal(one, other):
    pixels = [
        torch.equal(getattr(one, side).pixels_CHW, getattr(other, side).pixels_CHW)
        for side in ("chosen", "rejected")
    ]
    facts = [
        (item.pair, item.visit, item.prompt, item.outcome, item.flip, item.beside.gap)
        for item in (one, other)
    ]
    return all(pixels) and facts[0] == facts[1] and one.beside.seeds == other.beside.seeds


@KINDS
@pytest.mark.parametrize(
    "changes", [{}, {"ties": "soft"}, {"random_labels": True}], ids=["plain", "soft", "coins"]
)
def test_every_pair_is_that_of_the_rows_loaded_whole(kind, changes, tmp_path):
    framing, rows = replace(FRAMING, **changes), pickapic_rows(30, ties=4)
    rows[5]["label_0"] = 0.4  # the two labels no longer add up
    for number, row in enumerate(rows):
        texts = [f"{number} in words", f"{number} in others"]
        row["caption"] = texts if kind == "parquet" else texts[0] * (number != 7)
    pairs, whole = (
        streamed(kind, tmp_path, rows, framing),
        image_pairs(Dataset.from_list(rows), framing),
    )
    assert pairs.rows.tolist() == whole.rows.tolist()
    for number in reversed(range(len(whole))):
        assert equal(pairs.read(number, 3), whole.read(number, 3))
    assert (pairs.tally.ties, pairs.tally.unlabelled) == (4, 1)
    assert list(pairs.each_prompt()) == whole.prompts()
    assert set(pairs.tally.unread_columns) == set(whole.tally.unread_columns)


def test_a_subset_is_the_same_one(tmp_path):
    rows = pickapic_rows(40)
    pairs, whole = (
        streamed("parquet", tmp_path, rows),
        image_pairs(Dataset.from_list(rows), FRAMING),
    )
    for each in (pairs, whole):
        each.limit(9, 5)
    assert all(equal(pairs.read(n, 0), whole.read(n, 0)) for n in range(9))
    assert sorted(pairs.order(0, 0).tolist()) == list(range(9))


def test_numbers_and_masks_beside_the_pictures(tmp_path):
    white = encoded(picture(3).convert("L").point(lambda value: 255))
    rows = [
        {**row, "s_0": 0.5 * n, "s_1": 1.0, "seed_0": n, "seed_1": 100 + n, "m": white}
        for n, row in enumerate(pickapic_rows(20))
    ]
    framing = FrameSettings(0, 32, beside=SideSettings("s", 2.0, noise=True, mask="m"))
    pairs, whole = (
        streamed("parquet", tmp_path, rows, framing),
        image_pairs(Dataset.from_list(rows), framing),
    )
    for number in range(20):
        one, other = pairs.read(number, 1), whole.read(number, 1)
        assert equal(one, other)
        assert all(map(torch.equal, one.beside.masks, other.beside.masks))
    assert {"m", "s_0", "seed_1"}.isdisjoint(pairs.tally.unread_columns)


@KINDS
def test_an_unreadable_picture_is_named_with_its_shard_and_the_next_row_stands_in(
    kind, tmp_path, capsys
):
    rows = pickapic_rows(30)
    rows[16]["jpg_1"] = b"broken"
    pairs = streamed(kind, tmp_path, rows)
    assert [pairs.read(row, 0).pair for row in (15, 16, 17)] == [15, 17, 17]
    assert ", row 1): column jpg_1: " in capsys.readouterr().err
    for row in rows:
        row["jpg_0"] = b"broken"
    with pytest.raises(UserError, match=r"6 of 6 pairs are unreadable"):
        streamed(kind, tmp_path, rows).read(0, 0)


def test_a_caption_that_is_no_text_is_a_row_that_cannot_be_read(tmp_path, capsys):
    pairs = streamed("tar", tmp_path, [{**row, "caption": b"\xff"} for row in pickapic_rows(1)]
                     + pickapic_rows(20))  # fmt: skip
    assert pairs.read(0, 0).pair == 1
    assert "column caption: its .caption.txt file cannot be read" in capsys.readouterr().err
    assert len(list(pairs.each_prompt())) == 20


@KINDS
def test_what_tells_one_set_from_another(kind, tmp_path):
    rows = pickapic_rows(20)
    name = streamed(kind, tmp_path, rows).fingerprint
    assert streamed(kind, tmp_path, rows).fingerprint == name
    names = {name}
    for change in ({"jpg_0": encoded(picture(99))}, {"label_0": 0.0, "label_1": 1.0},
                   {"caption": "another"}):  # fmt: skip
        other = [*rows[:12], {**rows[12], **change}, *rows[13:]]
        names.add(streamed(kind, tmp_path, other).fingerprint)
    limited = streamed(kind, tmp_path, rows)
    limited.limit(10, 0)
    assert len(names | {limited.fingerprint}) == 5


@KINDS
def test_processes_and_workers_change_nothing_and_an_epoch_is_whole(kind, tmp_path):
    pairs = streamed(kind, tmp_path, pickapic_rows(30, ties=2), buffer=8)

    def seen(world, workers, start=0):
        found = {}
        for rank in range(world):
            plan = positions(start, 14, 4 // world, 1, rank, world)
            steps = step_batches(Stream(pairs, 7), plan, as_numbers, 1, workers)
            for step, (batch,) in enumerate(steps, start):
                found.setdefault(step, []).extend(batch)
        return [sorted(found[step]) for step in sorted(found)]

    straight = seen(1, 0)
    assert straight == seen(2, 0) == seen(1, 2)
    assert straight[9:] == seen(1, 0, start=9)
    flat = [number for step in straight for number in step]
    assert sorted(row for row, visit, _ in flat if visit == 0) == list(range(28))
    assert len(flat) == 56


def as_numbers(items):
    return [(item.pair, item.visit, float(item.chosen.pixels_CHW.double().sum())) for item in items]


def test_another_process_can_be_sent_the_pairs(tmp_path):
    pairs = streamed("parquet", tmp_path, pickapic_rows(20))
    assert equal(pickle.loads(pickle.dumps(pairs)).read(3, 0), pairs.read(3, 0))


def test_file_names_are_relative_to_the_shard_and_do_not_leave_its_folder(tmp_path, capsys):
    rows = [{"chosen": f"{n}.png", "rejected": f"x{n}.png", "prompt": "p"} for n in range(20)]
    rows[4]["rejected"] = "../../secret.png"
    data = parquet_shards(tmp_path / "data" / "inner", rows, files=1)
    for n in range(20):
        picture(n).save(data / f"{n}.png")
        picture(100 + n).save(data / f"x{n}.png")
    picture(0).save(tmp_path / "secret.png")
    name = str(tmp_path / "data")
    table = StreamTable.open(name, "train", None, "--split", str(tmp_path / "c"), 8, True)
    pairs = streamed_pairs(table, FRAMING, name)
    assert pairs.read(3, 0).pair == 3
    assert pairs.read(4, 0).pair == 5
    assert "leads out of the data folder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streamed")
    return parquet_shards(folder / "data", pickapic_rows(24, ties=2))


SHORT = {"streaming": True, "buffer_size": 8, "train_batch_size": 2, "checkpointing_steps": 2}


def test_a_streamed_run_resumes_bit_for_bit(models, data, tmp_path, capsys):
    common = SHORT | {"precompute_dir": tmp_path / "c", "resolution": 32}
    train(*flags(models(), data, tmp_path / "straight", **common))
    assert "streaming    24 rows in 2 parquet files" in capsys.readouterr().out
    half = common | {"max_train_steps": 2}
    train(*flags(models(), data, tmp_path / "cut", **half))
    shutil.rmtree(tmp_path / "c")  # what is unpacked is no state
    again = common | {"resume_from_checkpoint": "latest", "dataloader_num_workers": 1}
    train(*flags(models(), data, tmp_path / "cut", **again))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "straight")
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "straight"))


@pytest.mark.slow
def test_two_processes_train_as_one(models, data, tmp_path):
    common = SHORT | {"precompute_dir": tmp_path / "c", "resolution": 32}
    common |= {"train_batch_size": 1}
    train(*flags(models(), data, tmp_path / "one", **common, gradient_accumulation_steps=2))
    words = flags(models(), data, tmp_path / "two", **common)
    done = run_two(script("train_diffusion_dpo", *words))
    assert done.returncode == 0, done.stderr
    for one, other in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)


def test_what_is_held_is_a_few_numbers_a_row(tmp_path):
    """Row numbers, labels and the order of an epoch: 8 bytes each, and no pictures or texts."""
    held = []
    pictures = [encoded(picture(n, (8, 8)), "JPEG") for n in range(2)]
    for count in (1_000, 51_000):
        texts = [f"the caption of row {n}, which is not held" for n in range(count)]
        columns = {"chosen": [pictures[0]] * count, "rejected": [pictures[1]] * count}
        (tmp_path / f"{count}").mkdir()
        path = tmp_path / f"{count}" / "train.parquet"
        parquet.write_table(pyarrow.table({**columns, "prompt": texts}), path, row_group_size=100)
        del texts, columns
        tracemalloc.start()
        table = StreamTable.open(str(path), "train", None, "--split", str(tmp_path), 500, True)
        stream = Stream(streamed_pairs(table, FRAMING, str(path)), 0)
        assert stream[0].prompt == f"the caption of row {stream.at(0)[1]}, which is not held"
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert (held[1] - held[0]) / 50_000 < 30
