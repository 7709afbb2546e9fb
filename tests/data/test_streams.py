"""Rows in shards: an index without reading them, an order that is arithmetic, cells by row."""

import io
import os
import pickle
import shutil
import tarfile

import numpy as np
import pyarrow
import pytest
from pyarrow.parquet import ParquetFile, write_table

from diffdpo.data.streams import tar_index
from diffdpo.data.streams.order import buffered_order
from diffdpo.data.streams.table import StreamTable
from diffdpo.draws import Purpose, generator
from diffdpo.errors import UserError
from tests.data.shards import add, parquet_shards, tar_shards

ROWS = [{"number": n, "text": f"row {n}", "raw": bytes([n]) * 5} for n in range(50)]
FILES = [{"json": {"number": n}, "text.txt": f"row {n}", "raw": bytes([n]) * 5} for n in range(50)]
KINDS = pytest.mark.parametrize("kind", ["parquet", "tar"])


def table(folder, cache, buffer=12, split="train"):
    return StreamTable.open(str(folder), split, None, "--split", str(cache), buffer, True)


def shards(kind, folder):
    return parquet_shards(folder, ROWS) if kind == "parquet" else tar_shards(folder, FILES)


@pytest.mark.parametrize("buffer", [1, 7, 50, 1000])
def test_every_row_comes_once_an_epoch_and_never_far_from_its_place(buffer):
    rows_G = np.array([5, 0, 40, 1, 100, 54])
    order = buffered_order(rows_G, 3, 2, buffer)
    assert sorted(order.tolist()) == list(range(200))
    # The place of each row in the sequence of whole groups, derived anew.
    groups = generator(3, Purpose.ORDER, item=2, draw=2).permutation(6)
    starts = np.cumsum(rows_G) - rows_G
    sequence = np.concatenate([np.arange(rows_G[g]) + starts[g] for g in groups])
    place = np.argsort(sequence)
    assert np.abs(place[order] - np.arange(200)).max() < buffer
    if buffer == 1:  # nothing can move
        assert order.tolist() == sequence.tolist()


def test_epochs_and_seeds_have_orders_of_their_own_and_the_same_one_again():
    rows_G = np.full(10, 10)
    orders = [tuple(buffered_order(rows_G, s, e, 30)) for s in (0, 1) for e in (0, 1)]
    assert len(set(orders)) == 4
    assert orders[0] == tuple(buffered_order(rows_G, 0, 0, 30))


@KINDS
def test_cells_records_and_columns_are_those_of_the_rows(kind, tmp_path):
    found = table(shards(kind, tmp_path / "data"), tmp_path / "cache")
    assert len(found) == 50
    assert sorted(found.column_names) == ["number", "raw", "text"]
    for row in np.random.default_rng(0).permutation(50).tolist():
        assert found.record(row) == ROWS[row]
        assert found.cell(row, "text") == f"row {row}"
    assert found.held(["number"])["number"][:] == list(range(50))
    assert list(found.each(np.array([3, 30]), "text")) == [(3, "row 3"), (30, "row 30")]
    assert found.named(26).endswith(", row 1)")


@KINDS
def test_columns_go_and_get_other_names(kind, tmp_path):
    found = table(shards(kind, tmp_path / "data"), tmp_path / "cache")
    other = found.remove_columns("raw").rename_columns({"text": "prompt"})
    assert set(other.column_names) == {"number", "prompt"}
    assert other.record(7) == {"number": 7, "prompt": "row 7"}
    assert other.held(["prompt"])["prompt"][7] == "row 7"


@KINDS
def test_another_process_reads_the_same(kind, tmp_path):
    found = table(shards(kind, tmp_path / "data"), tmp_path / "cache")
    found.record(30)
    assert pickle.loads(pickle.dumps(found)).record(30) == ROWS[30]


def test_of_parquet_only_kept_rows_and_columns_are_unpacked_and_old_groups_make_room(tmp_path):
    found = table(shards("parquet", tmp_path / "data"), tmp_path / "cache", buffer=4)
    kept = np.array([n for n in range(50) if n % 3])
    found.keep(kept, ["text"])
    unpacked = found.shards.unpacked
    most = 0
    for epoch in range(2):
        for row in kept[found.order(kept, 0, epoch)].tolist():
            assert found.cell(row, "text") == f"row {row}"
            files = list(unpacked.folder.glob("*.arrow"))
            most = max(most, len(files))
    # Groups of up to 3 rows, rows that are up to 4 apart, and two groups to spare.
    assert 2 < most == unpacked.capacity < 8
    for path in files:
        rows = unpacked.table(path.stem, lambda _: pytest.fail("it is there"))
        assert rows.column_names == ["text"]
        assert all(int(text.as_py()[4:]) % 3 for text in rows.column("text"))


def test_what_another_process_deleted_or_left_half_written_is_unpacked_anew(tmp_path):
    found = table(shards("parquet", tmp_path / "data"), tmp_path / "cache")
    assert found.record(0) == ROWS[0]
    (path,) = (tmp_path / "cache").rglob("0-0.arrow")
    half = path.read_bytes()[:100]
    path.unlink()
    path.write_bytes(half)
    assert pickle.loads(pickle.dumps(found)).record(1) == ROWS[1]
    path.unlink()
    assert found.record(2) == ROWS[2]  # still mapped
    assert pickle.loads(pickle.dumps(found)).record(3) == ROWS[3]


@KINDS
def test_the_digest_follows_contents_not_the_place(kind, tmp_path):
    first = shards(kind, tmp_path / "data")
    name = table(first, tmp_path / "cache").digest()
    copy = shutil.copytree(first, tmp_path / "copy", copy_function=shutil.copyfile)
    assert table(copy, tmp_path / "cache").digest() == name
    file = sorted(copy.iterdir())[1]
    content = file.read_bytes().replace(b"row 44", b"row 45")
    file.write_bytes(content)
    assert table(copy, tmp_path / "cache").digest() != name


def test_a_tar_file_is_listed_once_until_it_changes(tmp_path, monkeypatch):
    data = shards("tar", tmp_path / "data")
    listed = []
    real = tar_index.listed_rows
    monkeypatch.setattr(
        tar_index, "listed_rows", lambda file: listed.append(file.name) or real(file)
    )
    for _ in range(2):
        assert table(data, tmp_path / "cache").record(9) == ROWS[9]
    assert listed == ["00000.tar", "00001.tar"]
    os.utime(data / "00001.tar", (1, 1))
    table(data, tmp_path / "cache")
    assert listed[2:] == ["00001.tar"]


@pytest.mark.parametrize("cut", [0, 100, 512, 700, 1024, 20_000, -1500, -10_240])
def test_a_tar_file_that_is_cut_off_is_named(cut, tmp_path):
    """In a header, in a file, between two, before the end."""
    data = tar_shards(tmp_path / "data", FILES, files=1)
    path = data / "00000.tar"
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset_data + 512
    path.write_bytes(path.read_bytes()[: end + cut if cut < 0 else cut])
    with pytest.raises(UserError, match=r"00000.tar: is no whole tar file"):
        table(data, tmp_path / "cache")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
    path = tar_shards(tmp_path / "data", FILES, files=1) / "00000.tar"
    with tarfile.open(path) as tar:
        header = tar.getmembers()[30].offset
    content = bytearray(path.read_bytes())
    content[header + 10] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"byte {header}: neither a file's header nor the end"):
        table(path, tmp_path / "cache")


def wrong_tar(path, *names):
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name in names:
            add(tar, name, "content")
    return path


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["a.x", "b.x", "a.y"], "the files of a do not lie side by side"),
        (["a.x", "a.x"], "holds a.x twice"),
    ],
)
def test_rows_of_a_tar_file_are_whole(names, line, tmp_path):
    with pytest.raises(UserError, match=line):
        table(wrong_tar(tmp_path / "data" / "x.tar", *names), tmp_path / "cache")


def test_files_of_a_tar_row_are_read_by_their_endings(tmp_path):
    row = {"a.png": b"1", "b.cls": "3", "c.json": [1], "txt": "a caption", "json": {"d": 4}}
    other = {"a.jpg": b"2", "b.cls": "x", "txt": b"\xff", "json": "{"}
    found = table(tar_shards(tmp_path / "data", [row, other], files=1), tmp_path / "cache")
    assert found.record(0) == {"a": b"1", "b": 3, "c": [1], "caption": "a caption", "d": 4}
    assert found.cell(1, "a") == b"2"
    assert found.cell(1, "c") is None
    for column in ("b", "caption", "d"):
        with pytest.raises(ValueError, match=r"its \.[\w.]+ file cannot be read"):
            found.cell(1, column)


def test_hidden_files_folders_and_long_names_in_a_tar_file(tmp_path):
    path = tmp_path / "x.tar"
    long = "folder/" + "n" * 150
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        add(tar, "folder/._a.txt", "of another system")
        for name in (f"{long}.text.txt", "./b.text.txt"):
            add(tar, name, name)
    found = table(path, tmp_path / "cache")
    assert [found.cell(row, "text") for row in range(2)] == [f"{long}.text.txt", "./b.text.txt"]


def test_damaged_and_unlike_parquet_files_are_named(tmp_path):
    data = shards("parquet", tmp_path / "data")
    last = sorted(data.iterdir())[1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-20])
    with pytest.raises(UserError, match=rf"shard .*{last.name}: is no whole parquet file"):
        table(data, tmp_path / "cache")
    last.write_bytes(bytes(300) + whole[300:])  # what the footer does not cover
    found = table(data, tmp_path / "cache")
    assert found.record(0) == ROWS[0]
    with pytest.raises(ValueError, match=r"row group 0 of .* is damaged"):
        found.record(25)
    parquet_shards(tmp_path / "other", [{"number": 1, "text": 2, "raw": b""}], files=1)
    shutil.copy(next((tmp_path / "other").iterdir()), last)
    with pytest.raises(UserError, match=r"has not the columns of .* .they differ in text.$"):
        table(data, tmp_path / "cache")


def test_shards_are_a_file_a_folder_or_a_pattern_of_one_split(tmp_path):
    data, cache = shards("parquet", tmp_path / "data"), tmp_path / "cache"
    (first, _) = sorted(data.iterdir())
    assert len(table(first, cache)) == 25
    assert len(table(data / "train-*.parquet", cache)) == 50
    shutil.copy(first, data / "test-00000-of-00001.parquet")
    assert (len(table(data, cache)), len(table(data, cache, split="test"))) == (50, 25)
    with pytest.raises(UserError, match="has no split 'dev'; found test, train"):
        table(data, cache, split="dev")
    with pytest.raises(UserError, match="download it first: hf download user/name --repo-type"):
        table("user/name", cache)
    shards("tar", data)
    with pytest.raises(UserError, match="holds parquet and tar files"):
        table(data / "*", cache)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    found = table(shards("parquet", tmp_path / "data"), tmp_path / "cache")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"No space left on device.*--precompute_dir"):
        found.record(0)
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_compressed_tar_files_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
    with pytest.raises(UserError, match="is no whole tar file, without compression"):
        table(tmp_path / "x.tar", tmp_path / "cache")


def test_a_column_is_read_many_groups_at_once_but_for_what_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr("diffdpo.data.streams.parquet.RUN", 12)
    folder = parquet_shards(tmp_path / "data", ROWS, files=2, group=4)
    first = sorted(folder.glob("*.parquet"))[0]
    column = ParquetFile(first).metadata.row_group(1).column(list(ROWS[0]).index("text"))
    begin = column.dictionary_page_offset or column.data_page_offset
    with first.open("r+b") as file:  # the second group
        file.seek(begin)
        file.write(bytes(column.total_compressed_size))
    wanted = np.delete(np.arange(50), [2, 17, 30])
    found = list(table(folder, tmp_path / "cache").each(wanted, "text"))
    assert found == [(row, f"row {row}") for row in wanted.tolist() if row not in range(4, 8)]


def test_bytes_that_are_no_text_are_one_row_less(tmp_path):
    values = pyarrow.array([b"one", b"\xff", b"three"])
    column = pyarrow.StringArray.from_buffers(3, *values.buffers()[1:], values.buffers()[0])
    write_table(pyarrow.table({"text": column}), tmp_path / "train.parquet")
    found = table(tmp_path, tmp_path / "cache")
    assert list(found.each(np.arange(3), "text")) == [(0, "one"), (2, "three")]
