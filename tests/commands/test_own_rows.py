"""Losses, rewards and formats of one's own through the real commands."""

import json

import pytest
from datasets import load_dataset

from diffdpo.cli import run_command
from tests.commands.image_runs import flags, metrics, train
from tests.factory import read_jsonl
from tests.text import runs

OWN = """
import numpy as np
import torch.nn.functional as F
from diffdpo.data.image_formats import ImageFormat

def shifted(chosen_B, rejected_B, *, beta):
    return -F.logsigmoid(beta * (chosen_B - rejected_B)) + 1

def darkness(pictures, prompts):
    return np.array([-np.asarray(picture.convert("L")).mean() for picture in pictures])

def length(texts):
    return np.array([len(text) for text in texts])

FORMAT = ImageFormat("left", "right", "words")
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "my.py"
    path.write_text(OWN)
    return path


@pytest.mark.usefixtures("no_plots")
def test_an_image_run_with_loss_format_and_reward_of_ones_own(models, pairs, own, tmp_path):
    rows = load_dataset("parquet", data_files=str(pairs / "*.parquet"), split="train")
    rows = rows.rename_columns({"jpg_0": "left", "jpg_1": "right", "caption": "words"})
    (tmp_path / "renamed").mkdir()
    rows.to_parquet(tmp_path / "renamed" / "train-00000.parquet")
    out = tmp_path / "run"
    words = {"loss_type": f"{own}:shifted", "data_format": f"{own}:FORMAT", "max_train_steps": 1}
    train(*flags(models(), tmp_path / "renamed", out, **words))
    assert metrics(out)[0]["loss"] == pytest.approx(1.693147, abs=1e-6)
    evaluation = ["--policy", out, "--split", "train", "--reward", f"{own}:darkness"]
    # The run's folder names this code as well; to trust it is for the user to say.
    evaluation += ["--data_format", f"{own}:FORMAT"]
    evaluation += ["--num_prompts", 2, "--images_per_prompt", 1, "--num_inference_steps", 1]
    evaluation += ["--implicit_draws", 0, "--output_dir", tmp_path / "figures"]
    assert run_command("evaluate", [str(word) for word in evaluation]) == 0
    figures = json.loads((tmp_path / "figures" / "evaluation.json").read_text())
    assert figures["reward"] == f"{own}:darkness"
    assert figures["rewards"][f"{own}:darkness"]["policy_mean"] < 0


def test_a_text_run_with_loss_and_reward_of_ones_own(lm, data, own, tmp_path, capsys):
    out = tmp_path / "run"
    runs.train(*runs.flags(lm, data["pairs"], out, loss_type=f"{own}:shifted", max_train_steps=1))
    assert read_jsonl(out / "metrics.jsonl")[0]["loss"] == pytest.approx(1.693147, abs=1e-6)
    words = ["--policy", out, "--split", "train", "--reward", f"{own}:length", "--num_prompts", 2]
    words += ["--max_new_tokens", 2, "--output_dir", tmp_path / "figures"]
    assert run_command("evaluate_text", [str(word) for word in words]) == 0
    assert f"({own}:length)" in capsys.readouterr().out


def test_a_reward_that_is_not_there_is_one_line(tmp_path, own, capsys):
    words = ["--policy", str(tmp_path), "--reward", f"{own}:nothing"]
    assert run_command("evaluate", words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert f"error: --reward {own}:nothing: {own} defines no nothing" in lines
