"""Several data sets of pictures as one: each pair is what it is in its own set."""

import pytest
from datasets import Dataset

from diffdpo.config import settings_of
from diffdpo.errors import UserError
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.reading.inputs import open_pairs
from diffdpo.image.settings import ImageSettings
from tests.factory import pickapic_rows

FRAMING = FrameSettings(seed=0, resolution=32)


@pytest.fixture
def sets(tmp_path):
    """Two sets of pairs in parquet files, and their names as one word."""
    rows = pickapic_rows(15)
    for name, own in (("a", rows[:6]), ("b", rows[6:])):
        (tmp_path / name).mkdir()
        Dataset.from_list(own).to_parquet(tmp_path / name / "train-00000.parquet")
    return [str(tmp_path / name) for name in "ab"]


def opened(name, **settings):
    named = {"dataset_name": name, "pretrained_model_name_or_path": "user/model"}
    return open_pairs(settings_of(ImageSettings, **named, **settings), FRAMING)


def contents(pairs):
    items = [pairs.read(number, 0) for number in range(len(pairs))]
    return [(item.prompt, item.chosen.pixels_CHW.tolist(), item.outcome) for item in items]


def test_pairs_are_those_of_their_sets(sets):
    alone = [contents(opened(name)) for name in sets]
    assert contents(opened(",".join(sets))) == [*alone[0], *alone[1]]
    half = opened(",".join(sets), dataset_weights=[0.5, 0.5])
    assert contents(half) == [*alone[0], *alone[1][:6]]
    part = opened(sets[1], dataset_weights=[0.5], mix_strategy="of_set")
    assert len(part) == 4
    assert all(item in alone[1] for item in contents(part))


def test_mistakes_are_lines(sets, tmp_path):
    both = ",".join(sets)
    for value, line in {
        (both, (1.0,)): "--dataset_weights: 1 weights for 2 data sets",
        (f"{both},{tmp_path}/gone", ()): f"data set {tmp_path}/gone: no such file or folder",
        (f"{sets[0]}, {sets[0]}", ()): "--dataset_name: one of the data sets is named twice",
        (sets[0], (1.0,)): "--dataset_weights: there is one data set, which is taken whole",
    }.items():
        with pytest.raises(UserError) as error:
            opened(value[0], dataset_weights=list(value[1]))
        assert any(line in shown for shown in error.value.mistakes), error.value.mistakes
    with pytest.raises(UserError, match="--streaming reads one data set of pictures"):
        opened(both, streaming=True)


def test_sets_of_other_forms_are_refused(sets, tmp_path):
    rows = [
        {"chosen": row["jpg_0"], "rejected": row["jpg_1"], "prompt": row["caption"]}
        for row in pickapic_rows(3)
    ]
    (tmp_path / "c").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "c" / "train.parquet")
    with pytest.raises(UserError, match="--dataset_name: the data sets have pairs in other forms"):
        opened(f"{sets[0]},{tmp_path}/c")
