"""Pairs that are held out of image training: never trained on, measured at the same draws, and
the step at which they were best is what a run leaves."""

import json
import math

import pytest
import torch
import yaml
from safetensors.torch import load_file

from diffdpo.cli import run_command
from diffdpo.engine.checkpoint_state import read_state
from diffdpo.losses import LOSSES
from tests.commands.image_runs import flags, metrics, same, train, weights
from tests.conftest import script
from tests.factory import make_pairs, read_jsonl
from tests.processes import run_two
from tests.runs import sums

BASE = {"holdout": 4, "eval_steps": 2, "max_train_steps": 6, "checkpointing_steps": 3}


@pytest.fixture(scope="module")
def run(models, pairs, tmp_path_factory):
    """A run that measures three times and keeps the best step."""
    out = tmp_path_factory.mktemp("held") / "run"
    train(*flags(models(), pairs, out, keep_best=True, learning_rate=3e-3, **BASE))
    return out


def evals(out):
    return read_jsonl(out / "eval.jsonl")


def test_every_measurement_has_its_figures(run):
    lines = evals(run)
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert 0 <= line["eval_rewards/accuracies"] <= 1
        rise = line["eval_error/policy_chosen"] - line["eval_error/reference_chosen"]
        assert line["eval_error/rise"] == pytest.approx(rise, abs=1e-9)
        assert 0 <= line["eval_rewards/accuracies_by_difficulty"] <= 1
        counts = [bucket["n"] for bucket in line["eval_by_timestep"]]
        assert sum(counts) == 4 * 4
    # The reference and the draws are the same every time.
    assert len({line["eval_error/reference_chosen"] for line in lines}) == 1


def test_the_figures_are_those_of_the_pairs_own_numbers(run):
    line = evals(run)[-1]
    columns = load_file(run / "held-out" / "step-6.safetensors")
    margin = columns["margin_PK"].double()
    # The default objective at the default beta of the command.
    loss = -torch.nn.functional.logsigmoid(5000 * margin).mean()
    assert line["eval_loss"] == pytest.approx(loss.item(), rel=1e-5)
    right = (margin.mean(dim=1) > 0).double().mean().item()
    assert line["eval_rewards/accuracies"] == pytest.approx(right)
    error = (-2 * columns["score_PK"].double()).mean().item()
    assert line["eval_error/policy_chosen"] == pytest.approx(error, rel=1e-6)


def checkpoint(run, step):
    return load_file(run / f"checkpoint-{step}" / "trainable.safetensors")


def test_the_result_is_the_best_step(run):
    lines = evals(run)
    best = min(lines, key=lambda line: line["eval_loss"])["step"]
    assert sums(weights(run)) == pytest.approx(sums(checkpoint(run, best)))
    card = (run / "README.md").read_text()
    assert f"step {best}" in card


def test_what_is_held_out_is_not_trained_on(models, pairs, tmp_path, monkeypatch):
    from diffdpo.image.reading import pairs as module

    read = set()
    whole = module.ImagePairs.read

    def seen(self, row, visit):
        read.add(int(self.rows[row]))
        return whole(self, row, visit)

    monkeypatch.setattr(module.ImagePairs, "read", seen)
    # Over all epochs of the training alone: no step of it measures but the last, whose rows are
    # those of visits 0 to 3.
    changes = BASE | {"eval_steps": 1000, "max_train_steps": 3}
    from diffdpo.image.scoring import held_out

    out = set()
    kept = held_out.divided

    def noted(rows, every, settings):
        division = kept(rows, every, settings)
        out.update(int(every.rows[number]) for number in division.out_P)
        return division

    monkeypatch.setattr("diffdpo.commands.train_diffusion_dpo.divided", noted)
    monkeypatch.setattr(held_out.HeldOut, "measure", lambda self, done: None)
    train(*flags(models(), pairs, tmp_path / "run", **changes))
    assert len(out) == 4
    assert len(read) == 8
    assert not read & out


def test_a_run_that_is_cut_measures_and_keeps_what_one_in_one_go_does(run, models, pairs, tmp_path):
    cut = tmp_path / "cut"
    own = BASE | {"keep_best": True, "learning_rate": 3e-3}
    train(*flags(models(), pairs, cut, **{**own, "max_train_steps": 3}))
    train(*flags(models(), pairs, cut, **own, resume_from_checkpoint="latest"))
    # The end of the shorter run was measured too.
    shorter, straight = (
        # What is said beside the best step so far may be beside that end.
        [{k: v for k, v in line.items() if "best" not in k} for line in evals(out)]
        for out in (cut, run)
    )
    assert [line for line in shorter if line["step"] != 3] == straight
    assert metrics(cut) == metrics(run)
    best = min(evals(cut), key=lambda line: line["eval_loss"])["step"]
    assert same(weights(cut), weights(run)) == (best != 3)


def test_patience_ends_the_run_with_its_best_step(models, pairs, tmp_path, capsys):
    out = tmp_path / "run"
    # At such a rate the first measurement is the best one.
    own = {"learning_rate": 1.0, "eval_steps": 1, "holdout": 4, "max_train_steps": 50}
    words = flags(
        models(), pairs, out, **own, keep_best=True, early_stopping_patience=2,
        checkpointing_steps=1, checkpoints_total_limit=1,
    )  # fmt: skip
    train(*words)
    lines = evals(out)
    best = min(lines, key=lambda line: (line["eval_loss"], line["step"]))["step"]
    assert len(lines) == best + 2 < 50
    assert metrics(out)[-1]["step"] == best + 2
    assert "stops early" in capsys.readouterr().out
    # The limit spares the best one.
    steps = sorted(int(path.name.split("-")[1]) for path in out.glob("checkpoint-*"))
    assert steps == [best, best + 2]
    before = weights(out)
    train(*words, "--resume_from_checkpoint", "latest")
    assert evals(out) == lines
    assert same(weights(out), before)


def test_stored_reference_scores_judge_held_out_pairs(models, pairs, tmp_path):
    own = BASE | {"reference_draws": 2, "cache_latents": True, "max_train_steps": 2}
    live, stored = tmp_path / "live", tmp_path / "stored"
    train(*flags(models(), pairs, stored, precompute_dir=tmp_path / "cache", **own))
    (line,) = evals(stored)
    assert load_file(stored / "held-out" / "step-2.safetensors")["margin_PK"].shape == (4, 2)
    own = {k: v for k, v in own.items() if k not in ("reference_draws", "cache_latents")}
    train(*flags(models(), pairs, live, learning_rate=0, **own))
    (zero,) = evals(live)
    assert zero["eval_loss"] == pytest.approx(math.log(2))
    assert zero["eval_error/rise"] == 0
    assert line["eval_error/reference_chosen"] > 0


def test_the_moving_average_is_what_is_measured_where_it_is_exported(models, pairs, tmp_path):
    own = BASE | {"max_train_steps": 2, "learning_rate": 1e-2}
    train(*flags(models(), pairs, tmp_path / "still", ema_decay=0.9999999, **own))
    (line,) = evals(tmp_path / "still")
    assert abs(line["eval_loss"] - math.log(2)) < 1e-3  # the average has hardly moved
    train(*flags(models(), pairs, tmp_path / "moved", **own))
    (other,) = evals(tmp_path / "moved")
    assert abs(other["eval_loss"] - math.log(2)) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["kto", "mapo"])
def test_losses_of_another_kind_are_measured(models, pairs, tmp_path, loss):
    own = BASE | {"max_train_steps": 2, "loss_type": loss}
    train(*flags(models(), pairs, tmp_path / "run", **own))
    (line,) = evals(tmp_path / "run")
    assert math.isfinite(line["eval_loss"])
    assert ("eval_error/rise" in line) == (loss == "kto")


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sigmoid", "kto"])
def test_two_processes_measure_what_one_does(models, pairs, tmp_path, loss):
    # An odd number: one process has a pair less, and another stands in for it.
    own = {"holdout": 5, "eval_steps": 1, "max_train_steps": 2, "loss_type": loss}
    own |= {"learning_rate": 1e-3, "checkpointing_steps": 10}
    one, two = tmp_path / "one", tmp_path / "two"
    train(*flags(models(), pairs, one, train_batch_size=4, **own))
    words = flags(models(), pairs, two, train_batch_size=2, **own)
    done = run_two(script("train_diffusion_dpo", *words))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held out     step") == 2
    for here, there in zip(evals(one), evals(two), strict=True):
        assert here.keys() == there.keys()
        for name, value in here.items():
            if name != "eval_by_timestep":
                # Beta is 5000: what a score is rounded by is multiplied by that.
                rounding = 2e-4 if name in ("eval_loss", "eval_rewards/margins") else 1e-6
                assert there[name] == pytest.approx(value, rel=1e-4, abs=rounding), name
    for step in (1, 2):
        name = f"held-out/step-{step}.safetensors"
        here, there = load_file(one / name), load_file(two / name)
        assert here["margin_PK"].shape == (5, 4)
        for column, values in here.items():
            torch.testing.assert_close(there[column], values, rtol=1e-4, atol=1e-6)


def test_pairs_of_one_prompt_or_one_picture_stay_together(tmp_path, models):
    from datasets import Dataset

    rows = Dataset.from_parquet(str(make_pairs(tmp_path / "few", 12) / "train-00000.parquet"))
    rows = rows.to_list()
    for number, row in enumerate(rows):
        row["caption"] = f"prompt {number // 2}"
    rows[1]["jpg_0"] = rows[2]["jpg_0"]  # links the first two prompts
    data = tmp_path / "data"
    data.mkdir()
    Dataset.from_list(rows).to_parquet(str(data / "train-00000.parquet"))
    seen = set()
    for seed in (0, 1):
        out = tmp_path / f"run-{seed}"
        own = BASE | {"seed": seed, "max_train_steps": 1, "holdout": 0.35}
        train(*flags(models(), data, out, **own))
        record = yaml.safe_load((out / "config.yaml").read_text())
        assert record["holdout"] == 0.35
        (line,) = evals(out)
        count = load_file(out / "held-out" / "step-1.safetensors")["margin_PK"].shape[0]
        assert count in (2, 4)
        seen.add(json.dumps(line["eval_error/reference_chosen"]))
    assert len(seen) == 2


AGAINST = """
def winner(chosen_B, rejected_B, *, beta):
    return chosen_B + 0 * rejected_B
"""


@pytest.fixture
def against_the_winner(tmp_path):
    """The name of a loss under which the winner's error rises."""
    (tmp_path / "own.py").write_text(AGAINST)
    name = f"{tmp_path / 'own.py'}:winner"
    yield name
    LOSSES.pop(name, None)


def test_winner_drift_rolls_back_or_stops(models, pairs, tmp_path, capsys, against_the_winner):
    own = {
        "loss_type": against_the_winner,
        "learning_rate": 3e-3,
        "max_train_steps": 40,
        "checkpointing_steps": 7,
        "drift_share": 0.01,
    }
    back = tmp_path / "back"
    train(*flags(models(), pairs, back, on_drift="rollback", **own))
    printed = capsys.readouterr().out
    low = {line["step"]: line.get("drift/winner_low", 0) for line in metrics(back)}
    drifted = next(step for step in low if low[step] > 0.01)
    before = (drifted - 1) // 7 * 7
    assert f"rolled back  to step {before}" in printed
    assert printed.count("drift        step") == 1
    assert read_state(back / f"checkpoint-{before}")["step"] == before
    assert sums(weights(back)) == pytest.approx(sums(checkpoint(back, before)))
    assert f"step {before}" in (back / "README.md").read_text()

    stop = tmp_path / "stop"
    words = flags(models(), pairs, stop, on_drift="stop", **own)
    assert run_command("train_diffusion_dpo", [str(word) for word in words]) == 2
    assert f"checkpoint-{drifted} is whole" in capsys.readouterr().err
    assert not (stop / "pytorch_lora_weights.safetensors").exists()
    again = [*map(str, words), "--resume_from_checkpoint", "latest"]
    assert run_command("train_diffusion_dpo", again) == 2  # it is still so
    assert metrics(stop)[-1]["step"] == drifted
    capsys.readouterr()
    more = ["--on_drift", "warn", "--max_train_steps", str(drifted + 1)]
    assert run_command("train_diffusion_dpo", [*again, *more]) == 0
    assert "drift        step" not in capsys.readouterr().out  # it was told before
