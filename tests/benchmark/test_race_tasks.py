"""The tasks of the race to quality: their pairs, and the flags of who takes part."""

import io
import math

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from diffdpo.config import parse
from diffdpo.data.bundled import bundled
from diffdpo.image.bundled import PAIRS
from diffdpo.image.settings import ImageSettings
from scripts.benchmark.peers import Peer
from scripts.benchmark.quality.tasks import (
    FLIPPED,
    TASKS,
    common_flags,
    entrant,
    make_pairs,
    subtle,
    turn_order,
)


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=float)


@pytest.fixture(scope="module")
def bundled_rows():
    rows = load_dataset(
        "parquet", data_files=f"{bundled(PAIRS)}/train-00000.parquet", split="train"
    )
    return [row for row in rows if row["label_0"] in (0, 1)]


@pytest.mark.parametrize("label", [0, 1])
def test_a_subtle_pair_differs_by_a_fifth(bundled_rows, label):
    row = next(row for row in bundled_rows if row["label_0"] == label)
    won, lost = ("jpg_0", "jpg_1") if label == 1 else ("jpg_1", "jpg_0")
    made = subtle(row, 0)
    assert made[won] == row[won]
    wanted = 0.8 * pixels(row[won]) + 0.2 * pixels(row[lost])
    assert np.abs(pixels(made[lost]) - wanted).max() <= 1


def test_a_fifth_of_the_labels_is_flipped_and_ties_are_left_out(tmp_path, bundled_rows):
    folder = make_pairs(TASKS["flipped"], tmp_path / "pairs")
    made = load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train")
    assert len(made) == len(bundled_rows) == 287
    turned = [a["label_0"] != b["label_0"] for a, b in zip(made, bundled_rows, strict=True)]
    assert abs(np.mean(turned) - FLIPPED) < 4 * math.sqrt(FLIPPED * (1 - FLIPPED) / 287)
    assert all(row["label_0"] + row["label_1"] == 1 for row in made)
    assert made[5]["jpg_0"] == bundled_rows[5]["jpg_0"]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_our_command_knows_every_flag_of_a_task(task, tmp_path):
    flags = common_flags(task, bundled(task.model), bundled(PAIRS), task.rates[0], 3)
    for name in task.ours:
        subject = entrant(task, name, [], flags)
        settings, _ = parse(ImageSettings, list(subject.flags))
        assert settings.seed == 3
        assert settings.learning_rate == float(task.rates[0])
        assert settings.beta_dpo == float(task.beta)
        assert bool(subject.cache) == settings.cache_latents
        assert settings.is_lora == (task.name != "flow" and name != "ours-full")
        assert settings.max_sequence_length == task.text_length


def test_scripts_get_the_flags_of_their_kind(tmp_path):
    peers = [Peer("diffusers", tmp_path / "a.py"), Peer("salesforce", tmp_path / "b.py")]
    assert TASKS["lora"].names(peers) == ["ours", "ours-latents", "ours-noisiest", "diffusers"]
    assert TASKS["flow"].names(peers) == list(TASKS["flow"].ours)
    subject = entrant(TASKS["subtle"], "diffusers", peers, ["--seed", "1"])
    assert (subject.program, subject.target) == ("script", str(peers[0].path))
    # Its beta multiplies whole errors, and ours their halves.
    told = ("--beta_dpo", "500", "--dataset_split_name", "train")
    assert subject.flags[:6] == ("--seed", "1", *told)


def test_places_in_the_order_change():
    assert turn_order(["a", "b"], 0) == ["a", "b"]
    assert turn_order(["a", "b"], 1) == ["b", "a"]
