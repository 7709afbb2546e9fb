"""Things to be judged, and judges, that do not go together or cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset

from tests.factory import encoded, pickapic_rows, picture
from tests.hostile.case import Bad, Material
from tests.text.factory import model, tokenizer

Make = Callable[[Material], list[str]]
OWN = """
def broken(pictures, prompts):
    raise RuntimeError("no power")
def three(pictures, prompts):
    return [1, 2, 3]
def words(pictures, prompts):
    return ["good" for picture in pictures]
"""


def judging(write: Callable[[Path], object], *words: str) -> Make:
    """The command ``score`` on what ``write`` makes, under the name ``data``."""

    def make(material: Material) -> list[str]:
        write(material.folder / "data")
        (material.folder / "own.py").write_text(OWN)
        return [*words, "--output_dir", "out", "--precompute_dir", "tables"]

    return make


def pairs(**changes: object) -> Callable[[Path], object]:
    """Four pairs of pictures with these values in every row."""

    def write(folder: Path) -> None:
        folder.mkdir()
        rows = [{**row, **changes} for row in pickapic_rows(4)]
        Dataset.from_list(rows).to_parquet(folder / "train.parquet")

    return write


def pictures(**files: str) -> Callable[[Path], object]:
    """A folder with a picture and these files; two underscores in a name stand for a dot."""

    def write(folder: Path) -> None:
        folder.mkdir()
        picture(0).save(folder / "0.png")
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_bytes(text.encode("latin-1"))

    return write


def lines(*rows: object) -> Callable[[Path], object]:
    """A file of JSON lines, ``data/train.jsonl``."""

    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


def text_pairs(*words: str, classifier: Callable[[Path], object] | None = None) -> Make:
    """An evaluation of texts judged by the classifier in the folder ``judge``."""

    def make(material: Material) -> list[str]:
        if classifier is not None:
            classifier(material.folder / "judge")
        base = ["--policy", material.lm, "--model_name_or_path", material.lm]
        base += ["--dataset_name", material.texts["pairs"], "--split", "train"]
        return [*map(str, base), "--output_dir", "out", "--reward", "classifier", *words]

    return make


def language_model(folder: Path) -> None:
    """A model without a head that gives one number."""
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)


SCORE, TEXT = "score", "evaluate_text"
DATA, STYLE = ["--dataset_name", "data"], ["--reward", "style"]
JUDGE = ["--reward_model", "classifier=./judge"]
TWO = {"prompt": "p", "chosen": "a", "rejected": "b"}

CASES = [
    Bad(
        "a judge that fails",
        SCORE,
        judging(pairs(), *DATA, "--reward", "own.py:broken"),
        r"--reward own.py:broken: fails with RuntimeError: no power for picture 1 of row 0",
    ),
    Bad(
        "a judge that gives too much",
        SCORE,
        judging(pairs(), *DATA, "--reward", "own.py:three"),
        r"--reward own.py:three: gives numbers of shape \(3,\) for 8 items",
    ),
    Bad(
        "a judge that gives words",
        SCORE,
        judging(pairs(), *DATA, "--reward", "own.py:words"),
        r"--reward own.py:words: gives list that is no array of numbers",
    ),
    Bad(
        "pictures that are none",
        SCORE,
        judging(pairs(jpg_0=b"x"), *DATA, *STYLE),
        r"4 of 8 pictures cannot be read \(picture 1 of row 0: column jpg_0: ",
    ),
    Bad(
        "texts to a judge of pictures",
        SCORE,
        judging(lines({"messages": [], "label": True}), *DATA, *STYLE),
        r"no image pairs in columns messages, label",
    ),
    Bad(
        "pictures to a judge of texts",
        SCORE,
        judging(pairs(), *DATA, "--reward", "sentiment"),
        r"no preferences in columns jpg_0, jpg_1",
    ),
    Bad(
        "texts of which most are empty",
        SCORE,
        judging(lines(TWO, *[{**TWO, "chosen": ""}] * 3), *DATA, "--reward", "sentiment"),
        r"data: 3 of 4 rows cannot be used \(row 1: chosen is empty\)",
    ),
    Bad(
        "a folder without captions to a judge that reads them",
        SCORE,
        judging(pictures(), "--images", "data", "--reward", "pickscore"),
        r"--reward pickscore: .*(not on this machine|reads prompts)",
    ),
    Bad(
        "captions that are no text",
        SCORE,
        judging(pictures(**{"0__txt": "\xff\xfe"}), "--images", "data", *STYLE),
        r"caption data/0.txt: cannot be read as UTF-8",
    ),
    Bad(
        "captions without names",
        SCORE,
        judging(pictures(metadata__jsonl='{"text": "a"}\n'), "--images", "data", *STYLE),
        r"data/metadata.jsonl: no column file_name or image; there are text",
    ),
    Bad(
        "a split that is not there",
        SCORE,
        judging(pairs(), *DATA, *STYLE, "--split", "test"),
        r"data set data: has no split 'test'",
    ),
    Bad("a classifier without a name", TEXT, text_pairs(), r"--reward classifier: which\?"),
    Bad(
        "a classifier that is not there",
        TEXT,
        text_pairs(*JUDGE),
        r"--reward_model classifier=./judge: no such file or folder",
    ),
    Bad(
        "a classifier that is a language model",
        TEXT,
        text_pairs(*JUDGE, classifier=language_model),
        r"--reward_model classifier=./judge: .*(weights|labels)",
    ),
    Bad(
        "a classifier of pictures",
        SCORE,
        judging(lambda folder: encoded(picture(0)), "--images", ".", "--reward", "classifier"),
        r"--reward: some judge pictures and some texts",
    ),
]
