"""Rows of one's own: a loss, a format, in a file that is named."""

import sys

import pytest
import torch
from datasets import Dataset

from diffdpo.data import image_formats
from diffdpo.data.text import detect
from diffdpo.engine.settings import TrainSettings
from diffdpo.errors import UserError
from diffdpo.objective.making import make_objective
from tests.processes import run_forked

OWN = """
import torch
from diffdpo.data.image_formats import ImageFormat
from diffdpo.data.text import TextFormat
from diffdpo.data.text.schema import Example
from diffdpo.losses import Loss

def squared(chosen_B, rejected_B, *, beta, label_smoothing=0.25):
    return (chosen_B - rejected_B - beta - label_smoothing) ** 2

ROW = Loss(squared, mean_tokens=True)
NUMBER = 3

def no_beta(chosen_B, rejected_B):
    return chosen_B - rejected_B

def read(record):
    return Example(record["q"], (record["a"], record["b"]))

QUESTIONS = TextFormat(("q", "a", "b"), read)
PICTURES = ImageFormat("left", "right", "text")
"""


@pytest.fixture
def own(tmp_path):
    """A file of one's own."""
    path = tmp_path / "my.py"
    path.write_text(OWN)
    return str(path)


@pytest.mark.parametrize("name", ["squared", "ROW"])
def test_a_function_or_a_row_becomes_a_loss(own, name):
    objective = make_objective(
        TrainSettings(label_smoothing=0.5), [f"{own}:{name}"], [2.0], beta=0.1
    )
    (term,) = objective.terms
    assert term.row.mean_tokens == (name == "ROW")
    loss_B = term.of_pairs(torch.tensor([1.0]), torch.tensor([0.0]))
    assert loss_B.item() == pytest.approx((1 - 0.1 - 0.5) ** 2)


def test_formats_are_read_by_name(own):
    name, row = detect(["q", "a", "b"], {}, f"{own}:QUESTIONS")
    assert name == f"{own}:QUESTIONS"
    assert row.read({"q": "1", "a": "2", "b": "3"}).completions == ("2", "3")
    columns = Dataset.from_dict({"left": [1], "right": [2], "text": ["x"]}).column_names
    assert image_formats.detect(columns, requested=f"{own}:PICTURES").prompt == "text"


def test_a_named_format_is_taken_though_another_comes_first():
    columns = ["messages", "label", "prompt", "completion"]
    assert detect(columns, {"prompt": ""})[0] == "llama-factory labels"
    assert detect(columns, {"prompt": ""}, "labels")[0] == "labels"


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("{dir}/none.py:x", "none.py: no such file"),
        ("{own}:nothing", "defines no nothing"),
        ("{own}:NUMBER", "neither a function of rewards nor"),
        ("{own}:no_beta", "a loss is f(chosen_B, rejected_B, *, beta)"),
        ("{dir}/broken.py:x", "broken.py: ZeroDivisionError: division by zero"),
        ("sigmoidd", "did you mean sigmoid?"),
    ],
)
def test_mistakes_are_one_line(own, tmp_path, spec, line):
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UserError) as error:
        make_objective(TrainSettings(), [spec.format(own=own, dir=tmp_path)])
    assert line in error.value.mistakes[0]


def test_missing_columns_of_a_named_format_are_named(own):
    with pytest.raises(UserError, match="have no column q, a, b; there are prompt"):
        detect(["prompt"], {}, f"{own}:QUESTIONS")
    with pytest.raises(UserError, match="have no column jpg_0"):
        image_formats.detect(["left"], requested="pick-a-pic")


def test_the_tests_of_a_row_run_on_ones_own(tmp_path):
    """A loss with the wrong sign is found out by the tests of the table."""
    path = tmp_path / "my.py"
    path.write_text("""
import torch.nn.functional as F

def right(chosen_B, rejected_B, *, beta):
    return F.relu(1 - beta * (chosen_B - rejected_B)).square()

def wrong(chosen_B, rejected_B, *, beta):
    return F.relu(1 + beta * (chosen_B - rejected_B)).square()
""")

    words = ["-m", "pytest", "-q", "-rA", "-p", "no:xdist", "tests/test_losses.py", "-k", "my.py"]
    words += [word for name in ("right", "wrong") for word in ("--own-loss", f"{path}:{name}")]
    done = run_forked([sys.executable, *words])
    passed, failed = (
        [line for line in done.stdout.splitlines() if line.startswith(f"{outcome} tests/")]
        for outcome in ("PASSED", "FAILED")
    )
    assert any("my.py:right" in line for line in passed), done.stdout + done.stderr
    assert any("my.py:wrong" in line for line in failed), done.stdout
    assert not any("my.py:right" in line for line in failed), done.stdout
