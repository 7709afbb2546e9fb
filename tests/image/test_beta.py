"""The beta at which the reference's own differences are of the size of a logit."""

from argparse import ArgumentTypeError

import numpy as np
import pytest
import torch
import yaml

from diffdpo.cli import run_command
from diffdpo.engine.batches import Rows
from diffdpo.image.flags.loss_settings import beta
from diffdpo.image.scoring.beta import PAIRS, fitting, reference_spread
from tests.commands.image_runs import flags, metrics, same, train, weights


class Numbers(Rows):
    """Rows whose scores are given."""

    def __init__(self, scores):
        self.scores, self.seen = scores, []

    def __len__(self):
        return len(self.scores)

    def read(self, row, visit):
        self.seen.append((row, visit))
        return self.scores[row]


class Plain:
    """A task and reference whose scores are what the rows hold."""

    def collate(self, items):
        return items

    def draw(self, batch):
        return torch.tensor(np.array(batch).T.flatten())

    def score(self, *arguments):
        return arguments[-1]


@pytest.mark.parametrize(("count", "batch"), [(2, 1), (7, 3), (80, 16)])
def test_the_spread_is_of_the_first_pairs_of_training(count, batch):
    scores = np.random.default_rng(0).normal(size=(count, 2))
    rows, plain = Numbers(scores), Plain()
    found = reference_spread(rows, plain, None, plain, 3, batch)
    first = rows.order(3, 0)[:PAIRS]
    gaps = scores[first, 0] - scores[first, 1]
    assert found == pytest.approx(gaps.std(ddof=1))
    assert rows.seen == [(row, 0) for row in first]
    assert fitting(found) * found == pytest.approx(1, rel=0.005)
    assert reference_spread(Numbers(scores[:1]), plain, None, plain, 3, batch) is None


def test_auto_trains_records_and_resumes_with_one_beta(models, pairs, tmp_path, capsys):
    out, cut = tmp_path / "run", tmp_path / "cut"
    train(*flags(models(), pairs, out, beta_dpo="auto"))
    printed = capsys.readouterr().out
    beta = yaml.safe_load((out / "config.yaml").read_text())["beta_dpo"]
    assert f"; a beta of {beta:g} would make that 1" in printed
    assert f"beta {beta:g} on the mean" in printed
    train(*flags(models(), pairs, tmp_path / "given", beta_dpo=beta))
    assert metrics(tmp_path / "given") == metrics(out)
    own = {"beta_dpo": "auto", "checkpointing_steps": 2}
    train(*flags(models(), pairs, cut, **own, max_train_steps=2))
    train(*flags(models(), pairs, cut, **own, resume_from_checkpoint="latest"))
    assert metrics(cut) == metrics(out)
    assert same(weights(cut), weights(out))
    assert yaml.safe_load((cut / "config.yaml").read_text())["beta_dpo"] == beta
    # It is that of the errors in the first records: of four pairs of the twelve.
    assert 0 < beta < 1e6


def test_the_spread_is_said_of_a_given_beta(models, pairs, tmp_path, capsys):
    train(*flags(models(), pairs, tmp_path / "long", max_train_steps=20, learning_rate=0))
    line = next(row for row in capsys.readouterr().out.splitlines() if row.startswith("spread"))
    beta = float(line.split("a beta of ")[1].split()[0])
    logits = float(line.split("deviation of ")[1].split(", ")[1].split()[0])
    assert logits * beta / 5000 == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"loss_type": "mapo"}, "--beta_dpo auto: the loss has no reference"),
        ({"max_train_samples": 1, "train_batch_size": 1}, "--beta_dpo auto: the reference's"),
    ],
)
def test_auto_is_refused_where_there_is_nothing_to_measure(
    models, pairs, tmp_path, capsys, changes, line
):
    words = flags(models(), pairs, tmp_path / "run", beta_dpo="auto", **changes)
    assert run_command("train_diffusion_dpo", [str(word) for word in words]) == 2
    assert line in capsys.readouterr().err


def test_a_word_that_is_neither_a_number_nor_auto_is_told_both():
    assert beta("auto") is None
    assert beta("2e3") == 2000
    with pytest.raises(ArgumentTypeError, match="'autom'; a number, or auto"):
        beta("autom")
