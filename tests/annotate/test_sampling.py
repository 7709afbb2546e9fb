"""Training runs are sampled once, as an evaluation would, and then compared."""

import numpy as np
import pytest
from PIL import Image

from diffdpo.annotate import sampling
from diffdpo.annotate.runs import RunPairs
from diffdpo.annotate.sources import open_pairs
from diffdpo.commands.evaluate import main as evaluate
from diffdpo.config import settings_of
from diffdpo.errors import UserError
from diffdpo.image.evaluate_settings import EvaluateSettings
from tests.annotate.made import settings
from tests.commands.image_runs import flags, train

SIZE = {"num_prompts": 3, "images_per_prompt": 2, "num_inference_steps": 2, "seed": 5}
SIZE |= {"dataset_split_name": "train"}


pytestmark = pytest.mark.slow  # two runs, which are then sampled twice


@pytest.fixture(scope="module")
def runs(models, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        words = flags(models(), pairs, folder / f"run{seed}", seed=seed, learning_rate=1e-1,
                      max_train_steps=1)  # fmt: skip
        train(*words)
    return [folder / "run1", folder / "run2"]


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.mark.usefixtures("no_plots")
def test_runs_are_sampled_as_an_evaluation_does_and_once(runs, tmp_path, monkeypatch, capsys):
    given = settings(*runs, output_dir=str(tmp_path / "out"), **SIZE)
    pairs = open_pairs(given)
    assert isinstance(pairs, RunPairs)
    assert (len(pairs), pairs.runs) == (6, ("run1", "run2"))
    evaluate(
        settings_of(EvaluateSettings, policy=[str(runs[1])], output_dir=str(tmp_path / "eval"),
                    reward=["colourfulness"], implicit_draws=0, **SIZE)
    )  # fmt: skip
    for name in ("00000-0.png", "00002-1.png"):
        ours, theirs = (tmp_path / f / "samples" / "run2" / name for f in ("out", "eval"))
        assert (pixels(ours) == pixels(theirs)).all()

    def fill(*arguments):
        raise AssertionError("sampled again")

    monkeypatch.setattr(sampling, "fill", fill)
    assert open_pairs(given).fingerprint == pairs.fingerprint
    other = settings(*runs, output_dir=str(tmp_path / "out"), **{**SIZE, "seed": 6})
    with pytest.raises(UserError, match="holds pictures of other runs, prompts or settings"):
        open_pairs(other)


def test_prompts_of_ones_own_take_the_place_of_the_pairs(runs, tmp_path, monkeypatch):
    file = tmp_path / "prompts.txt"
    file.write_text("a\nb\n\na\nc\nd\n")
    monkeypatch.setattr(sampling, "fill", lambda album, run, plan, facts: found.append(plan))
    found = []
    given = settings(*runs, prompts=str(file), output_dir=str(tmp_path / "out"), **SIZE)
    sampling.sampled(given)
    assert [plan.prompts for plan in found] == [["a", "b", "c"]] * 2
