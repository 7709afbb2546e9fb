"""What comes of the votes is read by the trainers and by the ranking."""

import csv
import io
import json

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from diffdpo.annotate.export import export, labels
from diffdpo.annotate.sources import open_pairs
from diffdpo.annotate.votes import Tally
from diffdpo.config import settings_of
from diffdpo.data.text import detect
from diffdpo.data.text.record import Record
from diffdpo.errors import UserError
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.reading.inputs import open_pairs as open_images
from diffdpo.image.settings import ImageSettings
from diffdpo.ranking import fit_bradley_terry
from diffdpo.text.tokens.row_reader import RowSettings, outcome
from tests.annotate.made import BROKEN, data_set, rows, settings, vote
from tests.annotate.samples import sample_folder


def test_a_label_is_wins_and_half_the_ties_over_votes():
    choices = ["first", "first", "second", "tie", "both_bad", "skip"]
    tally = Tally(3, [vote(1, choice, f"a{n}") for n, choice in enumerate(choices)])
    tally.add(vote(2, "both_bad"))
    (label,) = labels(tally, "drop")
    assert (label.pair, label.first_wins, label.votes) == (1, 2.5 / 4, 4)
    assert [(one.first_wins, one.votes) for one in labels(tally, "tie")] == [(0.6, 5), (0.5, 1)]


def test_pictures_come_back_as_soft_pairs_with_their_own_bytes(tmp_path):
    given = rows()
    pairs = open_pairs(settings(data_set(tmp_path / "d", given)))
    votes = [vote(0, c, f"a{n}") for n, c in enumerate(["second", "second", "tie", "first"])]
    votes += [vote(1), vote(2, "tie"), vote(BROKEN, "first"), vote(4, "both_bad")]
    folder = tmp_path / "out"
    lines = export(folder, pairs, Tally(len(pairs), votes), "drop", 0)
    found = load_dataset("parquet", data_files=str(folder / "train-*.parquet"), split="train")
    assert set(found.column_names) == {"jpg_0", "jpg_1", "caption", "label_0", "label_1", "votes"}
    assert found["label_0"][:] == [1.5 / 4, 1.0, 0.5, 1.0]
    assert [a + b for a, b in zip(found["label_0"], found["label_1"], strict=True)] == [1.0] * 4
    assert found["votes"][:] == [4, 1, 1, 1]
    assert found["caption"][:] == [given[row]["caption"] for row in (0, 1, 2, BROKEN)]
    # Bytes are not looked into: a picture that cannot be shown is one that training leaves out.
    assert found["jpg_0"][:] == [given[row]["jpg_0"] for row in (0, 1, 2, BROKEN)]
    assert "4, as many as 2.2 that all agree on" in lines[-1]
    # As training reads them: by the name of the folder, with the tie as a soft label.
    read = settings_of(
        ImageSettings, dataset_name=str(folder), pretrained_model_name_or_path="a/model"
    )
    seen = open_images(read, FrameSettings(0, 32, ties="soft"))
    assert seen.first_wins.tolist() == [1.5 / 4, 1.0, 0.5, 1.0]
    page = (folder / "annotation.html").read_text()
    assert "data:image/png" in page
    assert "<script>document" not in page


def test_a_second_export_replaces_the_first_and_no_other_files(tmp_path, monkeypatch):
    pairs = open_pairs(settings(data_set(tmp_path / "d", rows(["p"] * 7))))
    monkeypatch.setattr("diffdpo.annotate.export.SHARD", 2)
    folder, tally = tmp_path / "out", Tally(7, [vote(pair) for pair in range(7)])
    export(folder, pairs, tally, "drop", 0)
    assert len(list(folder.glob("train-*.parquet"))) == 4
    export(folder, pairs, Tally(7, [vote(0)]), "drop", 0)
    assert [path.name for path in folder.glob("train-*.parquet")] == ["train-00000.parquet"]
    (folder / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds thesis\.tex; choose another folder"):
        export(folder, pairs, tally, "drop", 0)


@pytest.mark.parametrize("turns", [False, True])
def test_texts_come_back_as_the_trainer_reads_soft_labels(tmp_path, turns):
    def side(text):
        return [{"role": "assistant", "content": text}] if turns else text

    prompt = [{"role": "user", "content": "why?"}] if turns else "why?"
    file = tmp_path / "t.jsonl"
    one = {"prompt": prompt, "chosen": side("so"), "rejected": side("no")}
    file.write_text("\n".join([json.dumps(one)] * 4) + "\n")
    pairs = open_pairs(settings(file))
    votes = [vote(0, c, f"a{n}") for n, c in enumerate(["second", "second", "tie", "first"])]
    votes += [vote(1, "first"), vote(2, "tie"), vote(3, "skip")]
    folder = tmp_path / "out"
    lines = export(folder, pairs, Tally(4, votes), "drop", 0)
    assert "left out     1 pairs of texts are ties" in lines
    found = load_dataset("parquet", data_files=str(folder / "train-*.parquet"), split="train")
    records = [Record(row) for row in found]
    _, format = detect(found.column_names, found[0])
    examples = [format.read(record) for record in records]
    assert [e.completions for e in examples] == [(side("no"), side("so")), (side("so"), side("no"))]
    assert all(example.prompt == prompt for example in examples)
    soft = RowSettings(soft_label_scale=1.0)
    assert [outcome(e, soft) for e in examples] == [pytest.approx(2.5 / 4), 1.0]


def test_runs_come_back_as_pairs_win_rates_and_strengths(tmp_path):
    folder = sample_folder(tmp_path / "e", ["base", "a", "b"], prompts=12, times=1)
    pairs = open_pairs(settings(folder))
    assert (len(pairs), pairs.runs) == (36, ("base", "a", "b"))
    random = np.random.default_rng(0)
    strength = {"base": 0.0, "a": 0.5, "b": 1.5}
    votes = []
    for pair in range(len(pairs)):
        first, second = pairs.names(pair)
        p = 1 / (1 + np.exp(strength[second] - strength[first]))
        for name in ("ann", "bob", "cy"):
            choice = "first" if random.random() < p else "second"
            given = {"prompt": pairs.prompt(pair), "first": first, "second": second}
            left = ("first", "second")[random.integers(2)]
            votes.append(vote(pair, choice, name, left=left, **given))
    out = tmp_path / "out"
    lines = export(out, pairs, Tally(36, votes), "drop", 0)
    assert sum(line.startswith("win rate") for line in lines) == 3
    rates = json.loads((out / "annotation.json").read_text())["win_rates"]
    by_hand = [v.choice == "first" for v in votes if (v.first, v.second) == ("base", "a")]
    assert rates[0]["value"] == pytest.approx(np.mean(by_hand))
    assert rates[0]["clusters"] == 12
    table = list(csv.DictReader(io.StringIO((out / "comparisons.csv").read_text())))
    assert sum(int(row["count"]) for row in table) == len(votes)
    fit = fit_bradley_terry(str(out / "comparisons.csv"))
    assert not fit.skipped
    same = fit_bradley_terry(
        [(v.first, v.second) if v.choice == "first" else (v.second, v.first) for v in votes]
    )
    assert np.allclose(fit.strength, same.strength)
    found = load_dataset("parquet", data_files=str(out / "train-*.parquet"), split="train")
    assert {"model_0", "model_1"} < set(found.column_names)
    shown = Image.open(io.BytesIO(found[0]["jpg_0"]))
    name = f"samples/{found[0]['model_0']}/00000-0.png"
    assert shown.tobytes() == Image.open(folder / name).tobytes()
