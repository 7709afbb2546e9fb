"""The frontier's points are the checkpoints of a run: the last of them is the result that the run
exported."""

import importlib.util

import pytest
import torch

from diffdpo.commands.evaluate_text import load_scorer
from diffdpo.engine.checkpoint import list_checkpoints
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from tests.conftest import ROOT
from tests.text.factory import save_model
from tests.text.runs import flags, train, write_data


@pytest.fixture(scope="module")
def frontier():
    found = importlib.util.spec_from_file_location(
        "reward_frontier", ROOT / "scripts" / "reward_frontier.py"
    )
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_last_checkpoint_is_the_result(frontier, tmp_path):
    rows, out = write_data(tmp_path)["pairs"], tmp_path / "run"
    train(*flags(save_model(tmp_path / "lm"), rows, out, checkpointing_steps=2))
    settings, device = EvaluateTextSettings(), torch.device("cpu")
    result, other = (load_scorer(str(out), "policy", settings, device) for _ in range(2))
    same = []
    for path in list_checkpoints(out):
        frontier.load_weights(other, path)
        pairs = zip(result.parameters(), other.parameters(), strict=True)
        same.append(all(torch.equal(a, b) for a, b in pairs))
    assert same == [False, True]


def test_the_picture_takes_runs_of_different_length(frontier):
    def row(name, step):
        reward = {"value": 0.1 * step, "interval": [0.1 * step - 0.05, 0.1 * step + 0.05]}
        return {"run": name, "step": step, "kl": {"value": step}, "policy_reward": reward}

    png = frontier.draw([row("a", 1), row("a", 2), row("b", 1)], 0.05, "title")
    assert png.startswith(b"\x89PNG")


def test_pictures_are_drawn_by_their_own_figures(frontier):
    def row(step):
        rate = {"value": 1.0, "interval": [0.9, 1.0]}
        return {"run": "a", "step": step, "winners_error": {"value": step}, "win_rate": rate}

    png = frontier.draw([row(1), row(2)], 0.5, "title", frontier.IMAGES)
    assert png.startswith(b"\x89PNG")
