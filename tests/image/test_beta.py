"""The beta at which the reference's own differences are of the size of a logit."""

from argparse import ArgumentTypeError
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from diffdpo.cli import run_command
from diffdpo.engine.batches import Rows
from diffdpo.image.flags.loss_settings import beta
from diffdpo.image.scoring import beta as module
from diffdpo.image.scoring.beta import PAIRS, FirstGaps, deviation, fitting, reference_spread
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


def spread_line(printed):
    (line,) = (row for row in printed.splitlines() if row.startswith("spread "))
    return line


def test_a_given_beta_gets_the_line_from_the_steps_and_once(
    models, pairs, tmp_path, capsys, monkeypatch
):
    own = {"train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 0.01}
    train(*flags(models(), pairs, tmp_path / "auto", beta_dpo="auto", **own, max_train_steps=1))
    found = spread_line(capsys.readouterr().out)
    beta = float(found.split("a beta of ")[1].split()[0])
    # Nothing is computed for it where the beta is given.
    monkeypatch.setattr(module, "reference_spread", None)
    out = tmp_path / "given"
    own |= {"beta_dpo": beta, "checkpointing_steps": 3}
    train(*flags(models(), pairs, out, **own, max_train_steps=3))  # each of the 12 pairs once
    assert spread_line(capsys.readouterr().out) == found
    resumed = flags(models(), pairs, out, **own, max_train_steps=4, resume_from_checkpoint="latest")
    train(*resumed)
    assert "spread " not in capsys.readouterr().out
    assert float(found.split(", ")[1].split()[0]) == pytest.approx(1, rel=0.01)


class Steps:
    """A trainer whose ``processes`` all have the scores that one is given, in turn."""

    def __init__(self, rows, steps, batch, processes, parts):
        self.rows, self.notice, self.lines = range(rows), lambda line: self.lines.append(line), []
        self.plan = SimpleNamespace(effective_batch=batch, total_steps=steps)
        self.accelerator = SimpleNamespace(num_processes=processes, gather=self.gather)
        self.part_MRB = torch.stack(parts)

    def gather(self, own_1MB):
        assert torch.equal(own_1MB[0], self.part_MRB[:, 0])
        return self.part_MRB.transpose(0, 1)


@pytest.mark.parametrize(
    ("rows", "steps", "micro", "accumulated", "processes", "pairs"),
    [
        (80, 30, 2, 1, 1, 50),
        (80, 30, 3, 2, 2, 50),  # over 60 pairs that are known after the fifth step
        (12, 30, 4, 1, 2, 12),  # no pair twice
        (80, 2, 4, 1, 1, 8),  # as many as the run has
    ],
)
def test_the_first_pairs_are_those_of_the_stream(rows, steps, micro, accumulated, processes, pairs):
    batch = micro * accumulated * processes
    score_2P = torch.randn(2, max(steps * batch, pairs), generator=torch.manual_seed(0))
    gap_P = score_2P[0] - score_2P[1]
    # As they are cut: a step's micro-batches follow each other, and processes take turns in each.
    cut = gap_P[: len(gap_P) // (micro * processes) * micro * processes]
    parts = cut.view(-1, processes, micro)[: -(-pairs // (micro * processes))]
    trainer = Steps(rows, steps, batch, processes, list(parts))
    first = FirstGaps(trainer, beta=10.0)
    for step in range(steps):
        for index in range(accumulated):
            start = (step * accumulated + index) * processes * micro
            first.add(score_2P[:, start : start + micro].flatten())
        first.judge({"step": step + 1})
        assert bool(trainer.lines) == ((step + 1) * batch >= pairs)
    (line,) = trainer.lines
    spread = gap_P[:pairs].double().numpy().std(ddof=1)
    assert f"{spread:.3g} over {pairs} pairs, {10 * spread:.3g} in logits; a beta of" in line
    assert not first.gaps


def test_scores_that_are_no_numbers_are_left_out_and_equal_ones_have_no_spread():
    gap_P = torch.tensor([1.0, torch.nan, 3.0, torch.inf])
    assert deviation(gap_P) == pytest.approx(2**0.5)
    assert deviation(gap_P[:2]) is None
    assert deviation(torch.ones(3)) is None


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
