"""From prompts to pairs of pictures by the real command, on a tiny pipeline."""

import hashlib
import io
import json
import os
import signal
import subprocess
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from pyarrow import parquet

from diffdpo.cli import run_command
from diffdpo.data.bundled import bundled
from diffdpo.image.backbones import load_backbone
from diffdpo.image.bundled import MODEL
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.pair_settings import PairSettings
from diffdpo.image.sampling import candidates
from diffdpo.image.sampling.candidates import policy_identity
from diffdpo.image.sampling.sample import PictureSettings, sample, usual_guidance
from diffdpo.metrics import REWARDS
from tests.commands.test_train_diffusion_dpo import flags, metrics, train
from tests.conftest import ROOT, THREADS, script, two_processes
from tests.runs import words_of

PROMPTS = ["a red cup", "a green hat", "a blue door"]


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS) + "\n")
    return path


@pytest.fixture
def words(models, prompts, tmp_path):
    """The flags of a quick command; further ones replace them."""

    def make(out="out", **more):
        given = {
            "pretrained_model_name_or_path": models(),
            "prompts": prompts,
            "candidates": 3,
            "num_inference_steps": 1,
            "precompute_dir": tmp_path / "tables",
            "output_dir": tmp_path / out,
        }
        return words_of({**given, **more})

    return make


@pytest.fixture
def sampled(monkeypatch):
    """The prompts that pictures are sampled for, with their seeds."""
    calls = []

    def counted(backbone, network, texts, seeds, *rest):
        calls.extend(zip(texts, seeds, strict=True))
        return sample(backbone, network, texts, seeds, *rest)

    monkeypatch.setattr(candidates, "sample", counted)
    return calls


def rows_of(folder):
    return load_dataset("parquet", data_files=str(folder / "train-*.parquet"), split="train")


def record_of(folder):
    return json.loads((folder / "make_pairs.json").read_text())


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_rows_hold_pictures_scores_and_seeds_and_the_record_what_made_them(
    words, tmp_path, models, capsys
):
    assert run_command("make_pairs", words(reward=["colourfulness", "jpeg_compressibility"])) == 0
    rows = rows_of(tmp_path / "out")
    assert rows["caption"][:] == PROMPTS
    for row in rows:
        for side in "01":
            picture = Image.open(io.BytesIO(row[f"jpg_{side}"]))
            assert picture.format == "PNG"
            (score,) = REWARDS["colourfulness"]()([picture], [row["caption"]])
            assert row[f"colourfulness_{side}"] == score
        assert row["label_0"] == (row["score_0"] > row["score_1"])
        assert row["label_0"] + row["label_1"] == 1
        assert row["model_0"] == row["model_1"] == str(models())
    record = record_of(tmp_path / "out")
    assert record["rewards"]["colourfulness"] == {"rule": "colourfulness", "version": "1"}
    assert record["made_by"]["guidance"] == 7.5  # Stable Diffusion's own
    assert record["counts"]["pairs"] == 3
    schema = parquet.read_schema(tmp_path / "out" / "train-00000.parquet")
    inside = json.loads(schema.metadata[b"diffdpo.make_pairs"])
    assert inside == {name: record[name] for name in ("rewards", "made_by", "counts")}
    assert {"sheet.png", "gaps.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    shown = capsys.readouterr().out
    assert "3 candidates of each, 9 pictures in all, 9 steps" in shown
    assert "guidance 7.5" in shown


def test_another_reward_selection_or_label_samples_nothing_and_more_candidates_add(
    words, sampled, tmp_path, capsys
):
    assert run_command("make_pairs", words()) == 0
    assert len(sampled) == 9
    first = list(sampled)
    others = [
        {"reward": "jpeg_compressibility"},
        {"select": "all"},
        {"min_gap": 1e-6, "soft_labels": 2},
        {"candidates": 2},
    ]
    for number, other in enumerate(others):
        assert run_command("make_pairs", words(f"other{number}", **other)) == 0
    assert sampled == first
    assert run_command("make_pairs", words("more", candidates=4)) == 0
    assert Counter(text for text, _ in sampled[9:]) == dict.fromkeys(PROMPTS, 1)
    assert "computing 3 of 12 rows: the others are stored already" in capsys.readouterr().out
    assert not {seed for _, seed in first} & {seed for _, seed in sampled[9:]}
    assert run_command("make_pairs", words("guided", guidance_scale=2)) == 0
    assert sampled[12:] == first  # the same noise under another guidance


def test_a_picture_is_what_the_pipeline_makes_of_its_seed(words, tmp_path, models):
    assert run_command("make_pairs", words()) == 0
    backbone = load_backbone(str(models()))
    settings = PictureSettings(1, usual_guidance(backbone), 1, backbone.native_resolution)
    row = rows_of(tmp_path / "out")[1]
    (again,) = sample(backbone, backbone.network, [row["caption"]], [row["seed_1"]], settings)
    assert np.abs(np.asarray(again, dtype=int) - pixels(row["jpg_1"])).max() <= 1


def test_the_same_command_again_finds_its_pairs_and_another_one_refuses_the_folder(
    words, sampled, tmp_path, capsys
):
    assert run_command("make_pairs", words()) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert run_command("make_pairs", words()) == 0
    assert "finished before" in capsys.readouterr().out
    assert run_command("make_pairs", words(soft_labels=3)) == 2
    assert "made with another soft_labels" in capsys.readouterr().err
    # Killed between record and rows: written anew.
    (tmp_path / "out" / "train-00000.parquet").unlink()
    assert run_command("make_pairs", words()) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert len(sampled) == 9


def test_a_policy_samples_with_its_weights_and_the_settings_of_its_run(
    words, sampled, models, pairs, tmp_path, capsys
):
    run = tmp_path / "run"
    options = {"rank": 2, "learning_rate": 1, "resolution": 32, "checkpointing_steps": 1}
    train(*flags(models(), pairs, run, max_train_steps=1, **options))
    named = {"pretrained_model_name_or_path": None, "policy": run}
    assert run_command("make_pairs", words(**named)) == 0
    assert "from the run" in capsys.readouterr().out
    assert run_command("make_pairs", words("base", resolution=32)) == 0
    policy, base = rows_of(tmp_path / "out"), rows_of(tmp_path / "base")
    assert set(policy["model_0"]) == {str(run)}
    assert pixels(policy[0]["jpg_0"]).shape == (32, 32, 3)
    assert sampled[:9] == sampled[9:]  # the same seeds, so that the two can be compared
    shared = {row["jpg_0"] for row in policy} & {row["jpg_0"] for row in base}
    assert not shared
    step = {**named, "policy": run / "checkpoint-1"}
    assert run_command("make_pairs", words("step", **step)) == 0
    assert [row["jpg_0"] for row in rows_of(tmp_path / "step")] == [row["jpg_0"] for row in policy]


def test_the_pipeline_samples_on_the_device_of_the_process(monkeypatch):
    moved = []
    pipeline = SimpleNamespace(to=moved.append)
    model = SimpleNamespace(network=torch.nn.Linear(1, 1), pipeline=pipeline)
    monkeypatch.setattr(candidates, "open_to_sample", lambda settings, device: (settings, model))
    settings = PairSettings(pretrained_model_name_or_path="any", prompts="any")
    backbone, network = candidates.open_sampler(settings, torch.device("cuda", 3))
    assert moved == [torch.device("cuda", 3)]
    assert (backbone, network) == (model, model.network)


@pytest.mark.parametrize(("given", "expected"), [(None, 3.0), (1.5, 1.5)])
def test_the_bundled_model_is_sampled_as_it_is_evaluated(given, expected):
    settings = PairSettings(pretrained_model_name_or_path=bundled(MODEL), guidance_scale=given)
    resolved, _ = candidates.resolved(settings, torch.device("cpu"))
    assert resolved.guidance_scale == expected
    assert EvaluateSettings().guidance_scale == 3.0


def test_identities_are_those_of_weights_and_not_of_their_place(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet" / "weights.safetensors").write_bytes(content)
        (tmp_path / name / "metrics.jsonl").write_text(name)
    identities = [policy_identity(str(tmp_path / name), "unet") for name in "abc"]
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize(
    ("more", "trained"),
    [({"select": "all", "soft_labels": 5.0}, 9), ({"reward": "FLAT"}, 0)],
    ids=["soft labels", "ties alone"],
)
def test_pairs_are_trained_on_and_our_own_columns_are_not_called_unread(
    words, models, tmp_path, capsys, more, trained
):
    own = tmp_path / "flat.py"
    own.write_text("def flat(pictures, prompts): return [1.0] * len(pictures)\n")
    more = {name: f"{own}:flat" if value == "FLAT" else value for name, value in more.items()}
    code = run_command("make_pairs", words(**more))
    if not trained:
        assert code == 0
        assert rows_of(tmp_path / "out")["label_0"][:] == [0.5] * 3
        assert "3 of equal scores" in capsys.readouterr().out
        return
    capsys.readouterr()
    train(*flags(models(), tmp_path / "out", tmp_path / "run", max_train_steps=2))
    shown = capsys.readouterr().out
    assert f"{trained} of {trained} rows" in shown
    assert "not read" not in shown
    assert "make_pairs.json" not in shown
    assert metrics(tmp_path / "run")[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)


def test_identical_candidates_are_counted(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(candidates, "candidate_seed", lambda seed, prompt, number: 5)
    assert run_command("make_pairs", words()) == 0
    shown = capsys.readouterr().out
    assert "6 of 9 candidates are another's twin" in shown
    assert "3 of equal scores" in shown


def tables_of(folder):
    """A digest of every shard, and of every file of pairs."""
    files = [*folder.rglob("*.arrow"), *folder.rglob("*.parquet")]
    names = [f"{file.parent.name}/{file.name}" for file in files]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return dict(zip(names, digests, strict=True))


def started(words):
    env = {**os.environ, **THREADS, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(script("make_pairs", *words), cwd=ROOT, env=env)


@pytest.fixture
def own(words, tmp_path):
    """The words of a command of forty prompts, with tables and pairs in a folder of that name."""
    many = tmp_path / "many.txt"
    many.write_text("\n".join(f"prompt {number}" for number in range(40)))

    def make(name, **changes):
        place = {"precompute_dir": tmp_path / name, "output_dir": tmp_path / name / "out"}
        return words(**place, prompts=many, **{"candidates": 2, **changes})

    return make


@pytest.mark.slow
def test_processes_with_and_without_a_launcher_make_the_pairs_of_one(own, tmp_path):
    assert run_command("make_pairs", own("one")) == 0
    three = [started(own("three")) for _ in range(3)]
    assert [process.wait(300) for process in three] == [0, 0, 0]
    launched = two_processes("make_pairs", *own("two"))
    env = {**os.environ, **THREADS, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(launched, cwd=ROOT, env=env, timeout=300, check=False).returncode == 0
    expected = tables_of(tmp_path / "one")
    assert len(expected) == 6 + 6 + 1
    assert tables_of(tmp_path / "three") == expected
    assert tables_of(tmp_path / "two") == expected


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_with_the_same_bits(own, tmp_path):
    longer = {"candidates": 3, "num_inference_steps": 8}
    process = started(own("killed", **longer))
    while not list((tmp_path / "killed").rglob("*.arrow")):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list((tmp_path / "killed").rglob("*.arrow"))) < 9
    assert run_command("make_pairs", own("killed", **longer)) == 0
    assert run_command("make_pairs", own("one", **longer)) == 0
    assert tables_of(tmp_path / "killed") == tables_of(tmp_path / "one")
