"""The table of losses: what is run, by whom, and what is made of it."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from diffdpo.errors import UserError
from diffdpo.losses import LOSSES, Loss
from diffdpo.losses.pairs import sigmoid_loss
from diffdpo.metrics.intervals import Estimate
from scripts.benchmark.contestant import Failed
from scripts.benchmark.losses import command, crew
from scripts.benchmark.losses.command import LossesSettings, carry_out
from scripts.benchmark.losses.crew import Crew
from scripts.benchmark.losses.figures import by_loss, over_seeds, row_of
from scripts.benchmark.losses.page import chart, markdown, percent
from scripts.benchmark.losses.plan import MODELS, TARGETED, Cell, Conditions, cells, image_losses
from tests.conftest import ROOT

CONDITIONS = Conditions("", 7, 4, 2, 1, 2)


def test_a_new_row_of_the_table_is_run_unasked(monkeypatch):
    before = LossesSettings().plan()
    assert {cell.loss_type for cell in before} == {
        name for name, row in LOSSES.items() if row.only != "text"
    }
    monkeypatch.setitem(LOSSES, "mine", Loss(sigmoid_loss))
    monkeypatch.setitem(LOSSES, "words", Loss(sigmoid_loss, only="text"))
    added = set(LossesSettings().plan()) - set(before)
    assert {cell.loss for cell in added} == {"mine"}
    assert len(added) == len(MODELS) * 4 * 5


def test_the_interval_of_a_share_ends_where_shares_do():
    few = Estimate(0.9, (0.7, 1.1), 2, 2, "t")
    assert percent(few, signed=False) == "90.0 [70.0, 100.0]"
    assert percent(few, signed=True) == "+90.0 [+70.0, +110.0]"
    alone = Estimate(0.9, (-np.inf, np.inf), 1, 1, "none")
    assert percent(alone, signed=False) == "90.0"


def test_what_is_cut_off_has_all_losses_of_its_seeds():
    plan = cells(["a", "b"], [0.0, 0.5], ["x", "y"], [3, 4])
    assert len(plan) == 16
    assert {cell.seed for cell in plan[:8]} == {3}
    assert {(cell.model, cell.share, cell.loss) for cell in plan[:8]} == {
        (model, share, loss) for model in "ab" for share in (0.0, 0.5) for loss in "xy"
    }
    assert len({cell.name for cell in plan}) == 16


def test_names_and_shares_that_are_not_there_are_refused():
    assert replace(LossesSettings(), shares=[0.2, 0.6]).problems() == [
        "--shares 0.6: must lie from 0 to 0.5"
    ]
    with pytest.raises(UserError, match="--losses orpo: not known; known: sigmoid"):
        LossesSettings(losses=["orpo"]).plan()
    with pytest.raises(UserError, match="--models sd: not known; known: diffusion, flow"):
        LossesSettings(models=["sd"]).plan()


def test_all_losses_meet_the_same_pairs_and_settings(tmp_path):
    from scripts.benchmark.losses.trial import Trials, rows_of

    trials = Trials(replace(CONDITIONS, work=str(tmp_path)))
    own = [vars(trials.settings(Cell("flow", 0.2, loss, 1))) for loss in image_losses()]
    differ = {name for one in own for name in one if one[name] != own[0][name]}
    assert differ == {"loss_type", "output_dir", "beta_dpo"}
    softer = {one["loss_type"][0] for one in own if one["beta_dpo"] != 200}
    assert softer == {*TARGETED, "sigmoid"}
    assert [one["beta_dpo"] for one in own if one["loss_type"] == ["sigmoid"]] == [200, 10]
    assert {one["beta_dpo"] for one in own} == {200, 10}
    assert (own[0]["max_train_steps"], own[0]["beta_dpo"], own[0]["seed"]) == (7, 200, 1)
    plain, turned, other = rows_of(0.0, 0), rows_of(0.2, 0), rows_of(0.2, 1)
    flips = [np.not_equal(plain["label_0"][:], rows["label_0"][:]) for rows in (turned, other)]
    assert all(abs(flip.mean() - 0.2) < 4 * (0.16 / 287) ** 0.5 for flip in flips)
    assert (flips[0] != flips[1]).any()
    assert turned["score_0"][:] == turned["label_0"][:]
    assert turned["score_1"][:] == turned["label_1"][:]


@pytest.fixture
def two_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(crew, "WORKER", "tests.benchmark.stub_worker")
    (tmp_path / "logs").mkdir()
    with Crew(replace(CONDITIONS, work=str(tmp_path)), 2, 1) as found:
        yield found
    assert all(worker.process.poll() is not None for worker in found.workers)


def test_processes_share_runs_and_outlive_what_fails(two_processes):
    names = ["a", "fails", "ends", "b", "ends", "c", "d", "ends", "e"]
    answers = dict(two_processes.answers([{"loss": name} for name in names]))
    for at, name in enumerate(names):
        if name in ("fails", "ends"):
            assert isinstance(answers[at], Failed)
            assert ("no" if name == "fails" else "has ended") in str(answers[at])
        else:
            assert answers[at]["loss"] == name
    assert len({answers[at]["process"] for at in (0, 3, 5, 6, 8)}) > 1
    assert os.getpid() not in {answers[at]["process"] for at in (0, 8)}


def test_nothing_begins_after_the_time(two_processes):
    late = two_processes.answers([{"loss": "a"}, {"loss": "b"}], time.monotonic() - 1)
    assert dict(late) == {0: None, 1: None}


def result(cell, rate, error=0.01):
    """What a run might find."""
    return {**vars(cell), "win_rate": {"value": rate}, "implicit_accuracy": {"value": 0.9},
            "by_difficulty": {"accuracy": 0.6, "gain": {"value": 0.3}}, "winners_error": error,
            "reference_error": 0.5, "diversity": {"policy": 0.2, "reference": 0.25}}  # fmt: skip


class FakeCrew:
    """Answers at once: the second run fails, and the last one comes too late."""

    asked: ClassVar[list] = []

    def __init__(self, conditions, size, threads):
        assert size <= 3

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def answers(self, requests, until=None):
        for at, request in enumerate(requests):
            if "loss" not in request:
                yield at, {}
                continue
            self.asked.append(Cell(**request))
            fails = request["loss"] == "ipo" and len(self.asked) == 2
            found = None if at == 3 else result(Cell(**request), 0.8)
            yield at, Failed("no") if fails else found


def test_the_command_keeps_what_is_done_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "Crew", FakeCrew)
    monkeypatch.setattr(command, "chart", lambda results: b"%d runs" % len(results))
    FakeCrew.asked = []
    settings = LossesSettings(
        losses=["sigmoid", "ipo"], models=["flow"], shares=[0.0], seeds=[0, 1], jobs=3,
        work_dir=str(tmp_path / "losses"),
    )  # fmt: skip
    assert command.main(settings) == 1
    said = capsys.readouterr().out
    assert "left         1 runs" in said
    assert "failed       flow-0-ipo-0: no" in said
    kept = json.loads((tmp_path / "losses" / "losses.json").read_text())
    assert [row["win rate"] for row in kept["rows"]] == [0.8, 0.8]
    first = list(FakeCrew.asked)
    assert command.main(settings) == 0
    assert set(FakeCrew.asked[len(first) :]) == {Cell("flow", 0.0, "ipo", seed) for seed in (0, 1)}
    assert (tmp_path / "losses" / "losses.png").read_bytes() == b"4 runs"
    with pytest.raises(UserError, match="another steps"):
        command.main(replace(settings, steps=9))


def test_where_preparing_fails_nothing_is_run(tmp_path, monkeypatch):
    class Broken(FakeCrew):
        def answers(self, requests, until=None):
            assert "loss" not in requests[0]
            yield 0, Failed("no room")

    monkeypatch.setattr(command, "Crew", Broken)
    found = carry_out(LossesSettings(), tmp_path, [Cell("flow", 0.0, "ipo", 0)], 0)
    assert {name: str(reason) for name, reason in found.items()} == {"preparing flow": "no room"}


def table_of(text, title):
    """The cells of the rows of one table, by loss."""
    lines = text.split(title)[1].split("\n\n")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows if row[0] != "---"}


def test_the_page_ranks_losses_and_marks_what_differs():
    rates = {"sigmoid": (0.70, 0.72, 0.74), "ipo": (0.80, 0.82, 0.84), "sft": (0.6, 0.75, 0.7)}
    found = [(Cell("flow", 0.0, loss, seed), rate, 0.01 * (1 + (loss == "ipo")))
             for loss, values in rates.items() for seed, rate in enumerate(values)]  # fmt: skip
    found.append((Cell("flow", 0.5, "sigmoid", 0), 0.5, 0.01))
    runs = [row_of(cell, result(cell, rate, error)) for cell, rate, error in found]
    text = markdown(runs)
    wins = table_of(text, "**Win rate**")
    assert list(wins) == ["loss", "ipo", "sigmoid", "sft"]
    assert wins["loss"] == ["0% flipped", "coin tosses"]
    # Over three seeds Student's t is 4.30; the standard error of 70, 72, 74 is 2 / √3.
    assert wins["sigmoid"] == ["72.0 [67.0, 77.0]", "50.0"]
    assert wins["ipo"][0].startswith("82.0")
    assert wins["ipo"][0].endswith("] ↑")
    assert wins["sft"][0].endswith("]")  # its difference from sigmoid has a wide interval
    assert wins["sft"][1] == "–"
    assert table_of(text, "**Implicit accuracy**")["ipo"][0].endswith(" / 60")
    assert table_of(text, "**Winner's error**")["ipo"][0].startswith("+4.0")
    assert table_of(text, "**Diversity**")["ipo"][0].startswith("-20.0")
    assert "Seeds: 0% flipped 3, coin tosses 1." in text
    assert len(by_loss(runs)) == 4
    assert chart(runs).startswith(b"\x89PNG")


def test_the_page_shows_the_kept_figures():
    rows = json.loads(Path(f"{command.KEPT}.json").read_text())["rows"]
    (block,) = command.BLOCK.findall(command.PAGE.read_text())
    assert block.strip() == markdown(rows)


def test_figures_are_kept_with_their_tables(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- losses -->\nold\n<!-- end of losses -->\nafter\n")
    monkeypatch.setattr(command, "PAGE", page)
    monkeypatch.setattr(command, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(command, "chart", lambda rows: b"%d runs" % len(rows))
    cell = Cell("flow", 0.0, "ipo", 0)
    (tmp_path / "results").mkdir()
    cell.result(tmp_path).write_text(json.dumps(result(cell, 0.8)))
    command.write(LossesSettings(update=True), tmp_path)
    assert page.read_text().startswith("before\n<!-- losses -->\n\n### flow")
    assert page.read_text().endswith("<!-- end of losses -->\nafter\n")
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept["rows"][0]["win rate"] == 0.8
    assert kept["conditions"]["steps"] == 60
    assert (tmp_path / "kept.png").read_bytes() == b"1 runs"


def test_one_seed_has_no_interval():
    found = over_seeds({4: 0.25})
    assert found.value == 0.25
    assert found.interval == (-np.inf, np.inf)


@pytest.mark.slow
def test_the_command_trains_and_judges(tmp_path):
    words = ["losses", "--small", "--losses", "kto", "capo", "--models", "flow", "--shares", "0.5"]
    words += ["--jobs", "2", "--work_dir", str(tmp_path / "losses")]
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "benchmark"), *words],
                          cwd=tmp_path, timeout=1200)  # fmt: skip
    assert done.returncode == 0
    kept = json.loads((tmp_path / "losses" / "losses.json").read_text())["rows"]
    assert {one["loss"] for one in kept} == {"kto", "capo"}
    assert all(one["winner's error"] != 0 for one in kept)
    assert not list((tmp_path / "losses" / "training").iterdir())
