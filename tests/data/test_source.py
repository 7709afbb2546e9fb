"""Which files are read for a split and a configuration, and what is refused."""

import bz2
import gzip
import json
import lzma

import pytest
from datasets import Dataset, DatasetDict

from diffdpo.data.source import FOLDER, open_dataset, open_with_folders
from diffdpo.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Writes files that hold one row each, with their own path as its text."""

    def make(*names):
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".parquet":
                Dataset.from_dict({"text": [name]}).to_parquet(path)
            elif path.suffix == ".csv":
                path.write_text(f"text\n{name}\n")
            else:
                path.write_text(json.dumps({"text": name}) + "\n")
        return tmp_path / "set"

    return make


@pytest.fixture
def texts(tmp_path):
    """The texts of a split."""

    def read(path, split, config=None):
        rows = open_dataset(str(path), split, config, str(tmp_path / "cache"), "--split")
        return sorted(rows["text"])

    return read


SHARDS = [f"data/{split}-00000-of-00001-0a1b.parquet" for split in ("train", "test", "test_unique")]


@pytest.mark.parametrize(
    ("files", "split", "expected"),
    [
        (SHARDS, "test", SHARDS[1:2]),
        (SHARDS, "test_unique", SHARDS[2:]),
        (["validation.csv", "validation_unique.csv"], "validation", ["validation.csv"]),
        (["dev-00000-of-00001.parquet"], "validation", ["dev-00000-of-00001.parquet"]),
        (["dev-00000-of-00001.parquet"], "dev", ["dev-00000-of-00001.parquet"]),
        (["data/dev-00000-of-00001.parquet"], "dev", ["data/dev-00000-of-00001.parquet"]),
        (["validation.csv", "validation_unique.csv"], "validation_unique", None),
        (["train_prefs.csv", "train_sft.csv"], "train_prefs", ["train_prefs.csv"]),
        (["portraits.csv", "trains_and_trams.csv"], "train", None),
        (["constraints/a.csv", "latest.csv"], "train", None),
        (["train-latest.jsonl", "test-latest.jsonl"], "test", ["test-latest.jsonl"]),
        (["train/test_pairs.jsonl", "test/a.jsonl"], "test", ["test/a.jsonl"]),
        (["train-00000.parquet", "dev.parquet"], "validation", ["dev.parquet"]),
        (["part-00000-of-00002.parquet", "part-00001-of-00002.parquet"], "train", None),
        (["train2.csv", "train-test-split/train.csv"], "train", None),
        (["pairs.parquet", "validation.parquet"], "train", ["pairs.parquet"]),
        (["TRAIN.JSONL", "test.Jsonl"], "test", ["test.Jsonl"]),
        (["train/metadata.jsonl", "train/notes.json"], "train", ["train/metadata.jsonl"]),
        (["a.parquet", "dataset_infos.json", "config.json", ".x.json"], "train", ["a.parquet"]),
    ],
)
def test_a_split_is_named_by_whole_words(write, texts, files, split, expected):
    folder = write(*files)
    if expected is None:  # all, or the one of exactly this name
        expected = [f for f in files if f.split(".")[0] == split] or files
    assert texts(folder, split) == sorted(expected)


@pytest.mark.parametrize(
    ("files", "split", "line"),
    [
        (["pairs.jsonl"], "test", r"has no split 'test'; found train; --split train reads it"),
        (SHARDS, "tset", r"has no split 'tset'; found test, test_unique, train$"),
        (["a.parquet", "b.jsonl"], "train", r"files of several kinds \(a.parquet, b.jsonl\)"),
        (["a.txt"], "train", r"no .parquet, .json.*; it holds a.txt"),
    ],
)
def test_a_split_that_is_not_there_and_files_of_two_kinds_are_refused(
    write, texts, files, split, line
):
    with pytest.raises(UserError, match=line):
        texts(write(*files), split)


def test_a_single_file_has_the_split_of_its_name(write, texts):
    folder = write("test.jsonl", "mine.jsonl")
    assert texts(folder / "test.jsonl", "test") == ["test.jsonl"]
    assert texts(folder / "mine.jsonl", "train") == ["mine.jsonl"]
    for name, there in (("test.jsonl", "test"), ("mine.jsonl", "train")):
        with pytest.raises(UserError, match=f"found {there}; --split {there}"):
            texts(folder / name, "validation")


def test_files_without_a_split_beside_a_training_file_are_named(write, texts, capsys):
    folder = write("train.jsonl", "prompts.jsonl")
    assert texts(folder, "train") == ["train.jsonl"]
    assert "prompts.jsonl: no split in the name; not read" in capsys.readouterr().out


def test_what_save_to_disk_wrote_has_its_own_splits(tmp_path, texts):
    rows = Dataset.from_dict({"text": ["a"]})
    DatasetDict({"train.v2": rows}).save_to_disk(tmp_path / "several")
    rows.save_to_disk(tmp_path / "one")
    assert texts(tmp_path / "several", "train.v2") == ["a"] == texts(tmp_path / "one", "train")
    for name, there in (("several", "train.v2"), ("one", "train")):
        with pytest.raises(UserError, match=rf"no split 'test'; found {there}"):
            texts(tmp_path / name, "test")
        with pytest.raises(UserError, match="has no configurations"):
            texts(tmp_path / name, there, "x")


def test_a_configuration_is_a_folder_or_what_the_readme_declares(write, texts):
    folder = write("photos/train-00000-of-00001.parquet", "drawings/train.parquet")
    assert texts(folder, "train", "drawings") == ["drawings/train.parquet"]
    for wrong in ("drawing", "..", "/"):
        with pytest.raises(UserError, match=r"no configuration .* found drawings, photos"):
            texts(folder, "train", wrong)
    everything = ["drawings/train.parquet", "photos/train-00000-of-00001.parquet"]
    assert texts(folder, "train", "default") == everything  # as the hub calls the only one
    with pytest.raises(UserError, match=r"no configuration '\.'"):
        texts(folder, "train", ".")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files:\n  - split: held\n"
        "    path: photos/*.parquet\n- config_name: two\n  data_files: drawings/*\n---\n"
    )
    assert texts(folder, "held", "one") == ["photos/train-00000-of-00001.parquet"]
    assert texts(folder, "train", "two") == ["drawings/train.parquet"]
    with pytest.raises(UserError, match="has the configurations one, two; name one"):
        texts(folder, "train")
    with pytest.raises(UserError, match=r"no configuration 'three'; found one, two"):
        texts(folder, "train", "three")


def test_pictures_among_the_files_of_a_configuration_are_no_rows(write, texts):
    folder = write("img/metadata.jsonl", "img/0.json")
    (folder / "img" / "a.png").write_bytes(b"")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: img/*\n---\n"
    )
    assert texts(folder, "train") == ["img/metadata.jsonl"]


def test_every_row_knows_the_folder_of_its_file(write, tmp_path):
    folder = write("train/a/metadata.jsonl", "train/b/metadata.jsonl", "test/metadata.jsonl")
    rows = open_with_folders(str(folder), "train", cache_dir=str(tmp_path / "cache"))
    label = rows.features[FOLDER]
    assert [(row["text"], label.int2str(row[FOLDER])) for row in rows] == [
        (f"train/{name}/metadata.jsonl", str(folder / "train" / name)) for name in "ab"
    ]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "has no rows"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "row 1, column text: not UTF-8 text"),
        (b'{"text": "a"}\n{"text": \n', "line 2: Expecting value"),
        (b"[" * 50_000, "nested too deep|line 1"),
    ],
)
def test_a_broken_file_gets_a_short_line(tmp_path, texts, content, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=line) as caught:
        open_with_folders(str(path), "train", cache_dir=str(tmp_path / "cache"))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["photos[1].csv", "a*.csv", "what?.csv", "v [2]/train.csv"])
def test_a_name_is_no_pattern(tmp_path, name):
    for other in (name, "photos1.csv", "ab.csv", "what1.csv", "v 2/train.csv"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text(f"text\n{other}\n")
    rows = open_dataset(str(tmp_path / name), "train", cache_dir=str(tmp_path / "cache"))
    assert rows["text"][:] == [name]


def test_words_for_nothing_are_words_in_a_csv_file(tmp_path):
    words = ["NA", "None", "null", "nan", "N/A"]
    (tmp_path / "a.csv").write_text("text,n\n" + "".join(f"{word},1\n" for word in words) + ",2\n")
    rows = open_dataset(str(tmp_path / "a.csv"), "train", cache_dir=str(tmp_path / "cache"))
    assert rows["text"][:] == [*words, None]
    assert rows["n"][:] == [1] * 5 + [2]


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip), (".bz2", bz2), (".XZ", lzma)])
def test_packed_text_is_read_and_its_mistakes_are_found(tmp_path, texts, ending, pack):
    for name, content in {
        "train.csv": "text\nNone\n",
        "test.csv": "text\nb\n",
        "broken.jsonl": '{"text": "a"}\n{"text": \n',
        "meta/metadata.jsonl": '{"text": "listed"}\n',
        "meta/note.jsonl": '{"text": "not read"}\n',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / (name + ending)).write_bytes(pack.compress(content.encode()))
    assert texts(tmp_path / f"train.csv{ending}", "train") == ["None"]
    assert texts(tmp_path / "meta", "train") == ["listed"]
    with pytest.raises(UserError, match="line 2: Expecting value"):
        texts(tmp_path / f"broken.jsonl{ending}", "train")
    (tmp_path / f"broken.jsonl{ending}").unlink()
    (tmp_path / "meta" / f"metadata.jsonl{ending}").unlink()
    (tmp_path / "meta" / f"note.jsonl{ending}").unlink()
    assert texts(tmp_path, "test") == ["b"]


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.parquet.gz", "a.tar.gz"])
def test_what_is_packed_otherwise_is_told_what_is_read(tmp_path, texts, name):
    (tmp_path / name).write_bytes(b"x")
    ending = name.rpartition(".")[2]
    packed = rf"files ending in \.{ending} .*; JSON and CSV also packed, with \.gz, \.bz2, \.xz"
    with pytest.raises(UserError, match=packed):
        texts(tmp_path / name, "train")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("chosen,rejected\na,b,c\nd,e,f\n", "rows of more fields than its header names"),
        ("chosen,rejected\na,b,\nd,e,\n", "rows of more fields than its header names"),
        ("chosen,rejected\na,b,c,d\n", "rows of more fields than its header names"),
        ("chosen,rejected\na,b\nc,d,e\n", "Expected 2 fields in line 3, saw 3"),
        ("chosen,rejected\n", "has no rows"),
        ("chosen,rejected\nd\xe9,e\n".encode("latin-1"), "not UTF-8 text; save it as UTF-8"),
    ],
)
def test_a_csv_file_that_would_be_read_wrongly_is_refused(tmp_path, content, line):
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(UserError, match=line):
        open_dataset(str(tmp_path / "a.csv"), "train", cache_dir=str(tmp_path / "cache"))
