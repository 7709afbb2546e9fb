"""Rewards judge what is there: lines of scores, accuracy against labels, found again by content."""

import json
import shutil

import numpy as np
import pytest
from datasets import Dataset, load_dataset

from diffdpo import REWARDS
from diffdpo.cli import run_command
from diffdpo.data.decode import open_image
from diffdpo.metrics.colourfulness import colourfulness
from diffdpo.metrics.sentiment import load_sentiment
from tests.factory import encoded, make_pairs, pickapic_rows, picture, read_jsonl
from tests.text.factory import assistant, label_rows, pair_rows, user, write_jsonl

OWN = """
import numpy as np
CALLS = {calls!r}

def redness(pictures, prompts):
    with open(CALLS, "a") as file:
        file.write(f"{{len(pictures)}}\\n")
    red = [np.asarray(picture, dtype=float)[..., 0].mean() for picture in pictures]
    return [mean + len(prompt) / 7 for mean, prompt in zip(red, prompts)]

def length(texts):
    with open(CALLS, "a") as file:
        file.write("".join(f"{{text!r}}\\n" for text in texts))
    return [len(text) for text in texts]
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "my.py"
    path.write_text(OWN.format(calls=str(tmp_path / "calls")))
    return path


def calls(tmp_path):
    path = tmp_path / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def score(tmp_path, *words, out="out", code=0):
    flags = ["--output_dir", tmp_path / out, "--precompute_dir", tmp_path / "tables"]
    assert run_command("score", [str(word) for word in [*words, *flags]]) == code
    if code:
        return None, None
    content = json.loads((tmp_path / out / "score.json").read_text())
    return read_jsonl(tmp_path / out / "scores.jsonl"), content


def test_pairs_get_two_columns_and_an_accuracy_against_labels(tmp_path, own, capsys):
    data = make_pairs(tmp_path / "data", 12, ties=2)
    names = ["colourfulness", f"{own}:redness"]
    flags = ["--dataset_name", data, "--reward", *names]
    rows, found = score(tmp_path, *flags, "--reward_batch_size", 5)
    raw = pickapic_rows(12, ties=2)
    for line, row in zip(rows, raw, strict=True):
        assert (line["prompt"], line["label"]) == (row["caption"], row["label_0"])
        for side in (0, 1):
            image = open_image(row[f"jpg_{side}"])
            assert line[f"colourfulness_{side}"] == colourfulness([image], [""])[0]
            red = np.asarray(image, dtype=float)[..., 0].mean() + len(row["caption"]) / 7
            assert line[f"{names[1]}_{side}"] == pytest.approx(red)
    gaps = np.array([r["colourfulness_0"] - r["colourfulness_1"] for r in rows])[:10]
    wins = np.array([r["label_0"] for r in raw])[:10]
    accuracy = found["rewards"]["colourfulness"]["accuracy"]
    assert accuracy["value"] == pytest.approx(((gaps > 0) == (wins == 1)).mean())
    assert (accuracy["n"], accuracy["label_ties"], accuracy["score_ties"]) == (10, 2, 0)
    assert found["rewards"]["colourfulness"]["identity"]["rule"] == "colourfulness"
    (alike,) = found["agreement"]
    others = np.array([r[f"{names[1]}_0"] - r[f"{names[1]}_1"] for r in rows])
    every = np.array([r["colourfulness_0"] - r["colourfulness_1"] for r in rows])
    assert alike["kendall_tau"] == pytest.approx((np.sign(others) * np.sign(every)).mean())
    shown = capsys.readouterr().out
    assert "judged       12 pairs of 12 rows, 24 pictures" in shown
    assert "2 ties of labels left out, 0 equal scores count half" in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert "colourfulness" in page
    assert "left out" in page
    # No more pictures at once than asked for, and none a second time.
    sizes = [int(size) for size in calls(tmp_path)]
    assert max(sizes) == 5
    assert sum(sizes) == 24
    assert score(tmp_path, *flags, out="again")[0] == rows
    assert calls(tmp_path) == []


def test_scores_are_found_by_content_and_not_by_place_and_follow_it(tmp_path, own):
    flags = ["--reward", f"{own}:redness", "--dataset_name"]
    data = make_pairs(tmp_path / "data", 3)
    first, _ = score(tmp_path, *flags, data)
    shutil.copytree(data, tmp_path / "copy")
    calls(tmp_path)
    assert score(tmp_path, *flags, tmp_path / "copy")[0] == first
    assert calls(tmp_path) == []
    rows = pickapic_rows(3)
    rows[1]["caption"] = "another prompt"
    Dataset.from_list(rows).to_parquet(tmp_path / "copy" / "train-00000.parquet")
    second, _ = score(tmp_path, *flags, tmp_path / "copy")
    assert second[0] == first[0]
    assert second[1][f"{own}:redness_0"] != first[1][f"{own}:redness_0"]
    calls(tmp_path)
    own.write_text(own.read_text() + "\n# another version\n")
    import sys

    del sys.modules[next(name for name in sys.modules if "my_py" in name)]
    del REWARDS[f"{own}:redness"]
    score(tmp_path, *flags, data)
    assert calls(tmp_path)


def test_a_picture_of_a_ranking_is_judged_once(tmp_path, own, capsys):
    names = []
    for n in range(4):
        picture(n).save(tmp_path / f"{n}.png")
        names.append(f"{n}.png")
    rows = [{"prompt": "p", "generations": names, "ranking": [1, 2, 3, 3]}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    lines, found = score(tmp_path, "--dataset_name", path, "--reward", f"{own}:redness")
    assert sum(int(size) for size in calls(tmp_path)) == 4
    assert [line["pictures"] for line in lines] == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert [line["label"] for line in lines] == [1, 1, 1, 1, 1, 0.5]
    by = {n: line for line in lines for n in [line["pictures"][0]]}
    assert lines[0][f"{own}:redness_0"] == by[0][f"{own}:redness_0"]
    accuracy = found["rewards"][f"{own}:redness"]["accuracy"]
    assert (accuracy["n"], accuracy["clusters"], accuracy["label_ties"]) == (5, 1, 1)
    shown = capsys.readouterr().out
    assert "6 pairs of 6 pairs of 1 rankings, 4 pictures" in shown
    assert "redness: none: too few prompts" in shown


def test_scores_come_back_as_columns_that_training_reads(tmp_path):
    data = make_pairs(tmp_path / "data", 6, ties=1)
    flags = ["--dataset_name", data, "--reward", "colourfulness", "--write_pairs"]
    rows, _ = score(tmp_path, *flags)
    written = load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "train-00000.parquet"), split="train"
    )
    for line, row, raw in zip(rows, written, pickapic_rows(6, ties=1), strict=True):
        assert {k: row[k] for k in ("jpg_0", "jpg_1", "label_0", "label_1", "caption")} == {
            k: raw[k] for k in ("jpg_0", "jpg_1", "label_0", "label_1", "caption")
        }
        assert row["colourfulness_1"] == line["colourfulness_1"]
    from diffdpo.image.pictures.framing import FrameSettings
    from diffdpo.image.pictures.side_columns import SideSettings
    from diffdpo.image.reading.pairs import image_pairs

    framing = FrameSettings(0, 32, ties="soft", beside=SideSettings(scores="colourfulness"))
    gaps = image_pairs(written, framing).beside.gaps
    assert gaps == pytest.approx([r["colourfulness_0"] - r["colourfulness_1"] for r in rows])


CAPTIONED = {
    "metadata": lambda folder: (folder / "metadata.jsonl").write_text(
        '{"file_name": "b/1.png", "text": "one"}\n{"file_name": "0.png", "text": "nought"}\n'
    ),
    "beside": lambda folder: [
        (folder / name).write_text(f" {text}\n")
        for name, text in (("0.txt", "nought"), ("b/1.txt", "one"))
    ],
}


def folder_of_pictures(folder):
    (folder / "b").mkdir(parents=True)
    picture(0).save(folder / "0.png")
    picture(1).save(folder / "b" / "1.png")
    return folder


@pytest.mark.parametrize("write", CAPTIONED.values(), ids=CAPTIONED)
def test_a_folder_of_pictures_with_captions(write, tmp_path, own):
    folder = folder_of_pictures(tmp_path / "pictures")
    write(folder)
    name = f"{own}:redness"
    rows, found = score(tmp_path, "--images", folder, "--reward", name)
    assert [(row["file"], row["prompt"]) for row in rows] == [
        ("0.png", "nought"),
        ("b/1.png", "one"),
    ]
    reds = [np.asarray(picture(n), dtype=float)[..., 0].mean() for n in (0, 1)]
    assert [row[name] for row in rows] == pytest.approx([reds[0] + 6 / 7, reds[1] + 3 / 7])
    assert found["rewards"][name]["accuracy"] is None
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\none\n")
    rows, found = score(
        tmp_path, "--images", folder, "--prompts", prompts, "--reward", name, "style"
    )
    assert [row["prompt"] for row in rows] == ["one", "one"]
    # Two pictures of one prompt are a pair on which two rewards agree or not.
    assert abs(found["agreement"][0]["kendall_tau"]) == 1


def test_completions_of_texts(tmp_path, own, capsys):
    rows = pair_rows(6)
    path, name = write_jsonl(tmp_path / "pairs.jsonl", rows), f"{own}:length"
    lines, found = score(tmp_path, "--dataset_name", path, "--reward", "sentiment", name)
    vader = load_sentiment()
    for line, row in zip(lines, rows, strict=True):
        wholes = [row["prompt"] + row[side] for side in ("chosen", "rejected")]
        assert [line["sentiment_0"], line["sentiment_1"]] == vader(wholes).tolist()
        assert [line[f"{name}_0"], line[f"{name}_1"]] == list(map(len, wholes))
        assert (line["prompt"], line["label"]) == (row["prompt"], 1)
    gaps = np.array([line["sentiment_0"] - line["sentiment_1"] for line in lines])
    accuracy = found["rewards"]["sentiment"]["accuracy"]
    assert accuracy["value"] == pytest.approx(((np.sign(gaps) + 1) / 2).mean())
    assert accuracy["score_ties"] == (gaps == 0).sum()
    labelled = write_jsonl(tmp_path / "labels.jsonl", label_rows(4))
    lines, found = score(tmp_path, "--dataset_name", labelled, "--reward", "sentiment")
    assert [line["label"] for line in lines] == [row["label"] for row in label_rows(4)]
    assert [line["sentiment"] for line in lines] == vader(
        [row["prompt"] + row["completion"] for row in label_rows(4)]
    ).tolist()


def test_conversations_are_their_texts_to_a_function_of_texts(tmp_path, own):
    rows = [
        {
            "prompt": [{"role": "system", "content": "s"}, user("q")],
            "chosen": [assistant("yes"), user("sure?"), assistant("yes, sure")],
            "rejected": [assistant("no")],
        }
    ]
    path = write_jsonl(tmp_path / "chats.jsonl", rows)
    score(tmp_path, "--dataset_name", path, "--reward", f"{own}:length")
    assert calls(tmp_path) == [repr("s\nq\nyes\nsure?\nyes, sure"), repr("s\nq\nno")]


def test_own_functions_alone_judge_what_the_columns_are(tmp_path, own, capsys):
    data = make_pairs(tmp_path / "data", 3)
    assert len(score(tmp_path, "--dataset_name", data, "--reward", f"{own}:redness")[0]) == 3
    texts = write_jsonl(tmp_path / "rows.jsonl", pair_rows(3))
    flags = ["--dataset_name", texts, "--reward", f"{own}:length"]
    score(tmp_path, *flags, code=2)
    line = capsys.readouterr().err
    assert (
        "columns prompt, chosen, rejected may hold pictures or texts; name a --data_format" in line
    )
    assert len(score(tmp_path, *flags, "--data_format", "pairs")[0]) == 3
    cells = {"prompt": ["p"], "chosen": [encoded(picture(0))], "rejected": [encoded(picture(1))]}
    Dataset.from_dict(cells).to_parquet(tmp_path / "cells.parquet")
    flags = ["--dataset_name", tmp_path / "cells.parquet", "--reward", f"{own}:redness"]
    assert len(score(tmp_path, *flags)[0]) == 1


def test_few_unreadable_pictures_are_left_out_and_many_stop_it(tmp_path, own, capsys):
    rows = pickapic_rows(12)
    rows[4]["jpg_1"] = b"broken"
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "train.parquet"
    Dataset.from_list(rows).to_parquet(path)
    flags = ["--dataset_name", path, "--reward", f"{own}:redness"]
    lines, found = score(tmp_path, *flags, "--write_pairs")
    assert [line["row"] for line in lines] == [n for n in range(12) if n != 4]
    assert found["unreadable"] == 1
    assert "skipped      1; picture 2 of row 4: column jpg_1: " in capsys.readouterr().out
    for row in rows[:6]:
        row["jpg_0"] = b"broken"
    Dataset.from_list(rows).to_parquet(path)
    score(tmp_path, *flags, code=2)
    assert "7 of 24 pictures cannot be read (picture 1 of row 0: " in capsys.readouterr().err


def test_a_calibration_needs_pairs_enough(tmp_path, own, capsys):
    rows = pickapic_rows(40)
    for n, row in enumerate(rows):
        row["label_0"] = float(n % 3 > 0)
        row["label_1"] = 1 - row["label_0"]
        if n % 2:
            row["jpg_0"], row["jpg_1"] = encoded(picture(n)), encoded(picture(n + 50))
    (tmp_path / "data").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "data" / "train.parquet")
    flags = ["--dataset_name", tmp_path / "data", "--reward", f"{own}:redness", "colourfulness"]
    _, found = score(tmp_path, *flags)
    fitted = [row["calibration"] for row in found["rewards"].values() if row["calibration"]]
    assert fitted
    for one in fitted:
        assert one["tau"] > 0
        assert 0 <= one["expected_calibration_error"] <= 0.5
        assert sum(count for _, _, count in one["bins"]) == 40
    assert "data:image/png;base64," in (tmp_path / "out" / "report.html").read_text()
    assert "cross-fitted over halves of the prompts" in capsys.readouterr().out
