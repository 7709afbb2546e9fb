"""Data sets of image pairs that cannot be read, and flags that do not fit them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset

from tests.factory import encoded, make_pairs, pickapic_rows, picture
from tests.hostile.case import Bad, Material

GOOD = encoded(picture(0))


def reading(write: Callable[[Path], Path], *words: str, command: str = "train_diffusion_dpo"):
    """Training on the data set that ``write`` makes in an empty folder."""

    def make(material: Material) -> list[str]:
        flags = ["--pretrained_model_name_or_path", material.models()]
        flags += ["--dataset_name", write(material.folder / "data"), "--resolution", 32]
        if command == "train_diffusion_dpo":
            flags += ["--report_to", "none"]
        return [*map(str, [*flags, "--output_dir", material.folder / "run"]), *words]

    return make


def table(*rows: dict[str, Any], name: str = "train.parquet") -> Callable[[Path], Path]:
    """A parquet file of these rows."""

    def write(folder: Path) -> Path:
        folder.mkdir()
        Dataset.from_list(list(rows)).to_parquet(folder / name)
        return folder

    return write


def captioned(caption: Any) -> Callable[[Path], Path]:
    """Four rows with this caption."""
    return table(*[row | {"caption": caption} for row in pickapic_rows(4)])


def files(**content: str | bytes) -> Callable[[Path], Path]:
    """A folder with these files; two underscores in a name stand for a dot, three for a slash."""

    def write(folder: Path) -> Path:
        for name, text in content.items():
            path = folder / name.replace("___", "/").replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder

    return write


def named(image: str) -> Callable[[Path], Path]:
    """A metadata.jsonl whose row names this image."""
    row = {"chosen": "a.png", "rejected": image, "prompt": "p"}
    plain = files(a__png=GOOD, metadata__jsonl=json.dumps(row))

    def write(folder: Path) -> Path:
        (folder.parent / "outside.png").write_bytes(GOOD)
        plain(folder)
        (folder / "link.png").symlink_to(folder.parent / "outside.png")
        os.mkfifo(folder / "pipe.png")
        return folder

    return write


def configurations(folder: Path) -> Path:
    """Two configurations, a folder each."""
    for name in ("photos", "drawings"):
        make_pairs(folder / name)
    return folder


def pairs(folder: Path) -> Path:
    """Good pairs of the split train."""
    return make_pairs(folder)


def pipe(folder: Path) -> Path:
    """A pipe that nothing is ever written to."""
    os.mkfifo(folder.with_suffix(".jsonl"))
    return folder.with_suffix(".jsonl")


def saved(folder: Path) -> Path:
    """Good pairs as ``save_to_disk`` writes them."""
    Dataset.from_list(pickapic_rows(4)).save_to_disk(folder)
    return folder


TRAIN = "train_diffusion_dpo"
NAMES = {
    "a name that leaves the folder": ("../outside.png", "leads out of the data folder"),
    "a link that leaves the folder": ("link.png", "leads out of the data folder"),
    "a pipe": ("pipe.png", "a pipe or a device"),
    "a device": ("/dev/zero", "a pipe or a device"),
    "a folder": (".", "is a folder"),
    "no file": ("none.png", "no such file: 'none.png'"),
    "a name of Windows": ("img\\\\a.png", r"no such file: .*; folders are parted by /, not"),
    "a very long name": ("x/" * 9000, "."),
}
CAPTIONS = {
    "a number": (7, "int in row 0"),
    "an object": ({"en": "a"}, "dict in row 0"),
    "a list of numbers": ([1, 2], "int in row 0"),
}

CASES = [
    *(
        Bad(
            f"metadata with {name}",
            TRAIN,
            reading(named(image)),
            rf"data: 1 of 1 pairs are unreadable \(row 0: column rejected: .*{line}",
        )
        for name, (image, line) in NAMES.items()
    ),
    *(
        Bad(
            f"a caption column with {name}",
            TRAIN,
            reading(captioned(caption)),
            f"data: column caption holds {line}",
        )
        for name, (caption, line) in CAPTIONS.items()
    ),
    Bad(
        "more pixels than allowed",
        TRAIN,
        reading(pairs, "--max_image_pixels", "500"),
        r"data: 12 of 12 pairs .* 1,024 pixels, more than the 500 of --max_image_pixels",
    ),
    Bad("no room for a pixel", TRAIN, reading(pairs, "--max_image_pixels", "0"), "--max_image_pix"),
    Bad("sides below 1:1", TRAIN, reading(pairs, "--max_image_ratio", "0.5"), "--max_image_ratio"),
    Bad(
        "a gigantic side", TRAIN, reading(pairs, "--resolution", "1000000000"), "--resolution must"
    ),
    Bad(
        "a split that a folder lacks",
        TRAIN,
        reading(pairs, "--split", "tset"),
        r"data set .*data: has no split 'tset'; found train; --split train reads it",
    ),
    Bad(
        "a split that a single file lacks",
        TRAIN,
        reading(lambda folder: pairs(folder) / "train-00000.parquet", "--split", "validation"),
        r"data set .*parquet: has no split 'validation'; found train",
    ),
    Bad(
        "a split that saved rows lack",
        TRAIN,
        reading(saved, "--split", "test"),
        r"data set .*data: has no split 'test'; found train",
    ),
    Bad(
        "a split that is part of another word",
        TRAIN,
        reading(table(*pickapic_rows(4), name="contest.parquet"), "--split", "test"),
        r"data set .*data: has no split 'test'; found train",
    ),
    Bad(
        "a configuration that is not there",
        TRAIN,
        reading(configurations, "--dataset_config_name", "drawing"),
        r"data set .*has no configuration 'drawing' \(did you mean drawings\?\); found drawings",
    ),
    Bad(
        "a configuration that leaves the folder",
        TRAIN,
        reading(configurations, "--dataset_config_name", ".."),
        r"data set .*has no configuration '\.\.'",
    ),
    Bad(
        "a configuration of saved rows",
        TRAIN,
        reading(saved, "--dataset_config_name", "x"),
        r"data set .*has no configurations; leave x out",
    ),
    Bad(
        "a README with a broken head",
        TRAIN,
        reading(files(README__md="---\nconfigs: [\n---\n", train__jsonl='{"a": 1}')),
        r"data set .*README.md: ",
    ),
    Bad(
        "files of two kinds",
        TRAIN,
        reading(files(a__jsonl='{"a": 1}\n', b__csv="a\n1\n")),
        r"data set .*files of several kinds \(a.jsonl, b.csv\)",
    ),
    Bad(
        "a pipe for a file",
        TRAIN,
        reading(pipe),
        r"data set .*: is a pipe or a device, not a file",
    ),
    Bad(
        "no files",
        TRAIN,
        reading(files(a__txt="x", metadata__tsv="y")),
        r"data set .*: no .parquet, .json.*; it holds a.txt, metadata.tsv",
    ),
    Bad(
        "a pointer of Git LFS for a file",
        TRAIN,
        reading(files(train__parquet="version https://git-lfs.github.com/spec/v1\noid sha256:0\n")),
        r"data set .*: train.parquet is a Git LFS pointer in place of the file; git lfs pull",
    ),
    Bad(
        "two folders of pairs",
        TRAIN,
        reading(pairs, "--train_data_dir", "elsewhere"),
        r"--train_data_dir elsewhere: --dataset_name .*data is read; keep one",
    ),
    Bad("an empty file", TRAIN, reading(files(metadata__jsonl="")), r"data set .*: has no rows"),
    Bad(
        "text that is not UTF-8",
        TRAIN,
        reading(files(train__jsonl=b'{"chosen": "a", "rejected": "b", "prompt": "\xff"}\n')),
        r"data set .*: row 0, column prompt: not UTF-8 text",
    ),
    Bad(
        "columns under other names",
        TRAIN,
        reading(table({"winner": GOOD, "loser": GOOD, "text": "p"})),
        r"no image pairs in columns winner, loser, text; .*--chosen_column, --rejected_column",
    ),
    Bad(
        "rankings without lists",
        TRAIN,
        reading(table({"generations": GOOD, "ranking": [1], "prompt": "p"})),
        r"data: column generations holds binary; a ranking has a list of pictures",
    ),
    Bad(
        "rankings of other lengths",
        TRAIN,
        reading(table(*[{"generations": [GOOD, GOOD], "ranking": [1], "prompt": "p"}] * 3)),
        r"data: 3 of 3 rankings cannot be read .first in row 0.; mend column ranking",
    ),
    Bad(
        "a column of nearly the right name",
        TRAIN,
        reading(table({"chosen": GOOD, "rejected": GOOD, "promt": "p"})),
        r"no image pairs .*lacks prompt \(did you mean promt\?\)",
    ),
    Bad(
        "a flag that names no column",
        TRAIN,
        reading(pairs, "--chosen_column", "jgp_0"),
        r"--chosen_column jgp_0: the data have no such column \(did you mean jpg_0\?\)",
    ),
    Bad(
        "two flags that name one column",
        TRAIN,
        reading(pairs, "--chosen_column", "jpg_0", "--rejected_column", "jpg_0"),
        r"--rejected_column jpg_0: is the column of --chosen_column already",
    ),
    Bad(
        "a label column of words",
        TRAIN,
        reading(pairs, "--label_column", "model_1"),
        r"data: 12 of 12 labels are not 0, 0.5 or 1 .*; mend column model_1",
    ),
    Bad(
        "a broken column that a flag names",
        TRAIN,
        reading(
            table({"winner": b"x", "rejected": GOOD, "prompt": "p"}), "--image_column", "winner"
        ),
        r"data: 1 of 1 pairs are unreadable .row 0: column winner: in no image format",
    ),
    Bad(
        "a label column for a format without",
        TRAIN,
        reading(pairs, "--label_column", "label_0", "--data_format", "chosen-rejected"),
        "--label_column: --data_format chosen-rejected has no label",
    ),
    Bad(
        "prompts from a split that is not there",
        "make_pairs",
        reading(pairs, "--split", "test", command="make_pairs"),
        r"data set .*: has no split 'test'; found train",
    ),
]
