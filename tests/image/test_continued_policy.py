"""A full fine-tune that goes on from another: where it starts, and which reference it has."""

import json

import pytest

from tests.commands.image_runs import flags, metrics, train
from tests.commands.test_evaluate import judge


@pytest.fixture(scope="module")
def first(models, pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("first") / "run"
    train(*flags(models(), pairs, out, rank=None, max_train_steps=2))
    return out


def test_the_reference_is_the_start_or_the_model_itself(first, models, pairs, tmp_path):
    """With rate 0 the policy stays the first run's: against it every reward is 0, against the model
    the first run's reward of the same draws."""
    still = {"rank": None, "init_policy": first, "learning_rate": 0, "max_train_steps": 1}
    shared = {"precompute_dir": tmp_path / "cache"}
    found = {}
    for name in ("start", "base"):
        for draws in (0, 1):
            out = tmp_path / f"{name}-{draws}"
            more = {"reference_draws": draws, **shared} if draws else {}
            train(*flags(models(), pairs, out, **still, **more, reference=name))
            found[name, draws] = metrics(out)[0]["rewards/margins"]
    assert found["start", 0] == found["start", 1] == 0
    assert found["base", 0] != 0
    assert found["base", 1] == pytest.approx(found["base", 0], rel=1e-3)
    assert len(list((tmp_path / "cache").glob("reference-*"))) == 2


@pytest.mark.usefixtures("no_plots")
def test_an_evaluation_is_against_the_runs_own_reference(first, models, pairs, tmp_path):
    still = {"rank": None, "init_policy": first, "learning_rate": 0, "max_train_steps": 1}
    quick = ["--reward", "colourfulness", "--num_prompts", "2", "--implicit_draws", "1"]
    for name, checkpoint in (("start", ""), ("base", ""), ("base", "checkpoint-1")):
        out = tmp_path / name
        if not out.exists():
            more = {"checkpointing_steps": 1, "reference": name}
            train(*flags(models(), pairs, out, **still, **more))
        result = judge(out / checkpoint, tmp_path / f"figures-{name}{checkpoint}", *quick)
        difference = result["rewards"]["colourfulness"]["difference"]["value"]
        assert (difference == 0) == (name == "start"), json.dumps(result["rewards"])
