"""The report is one file that needs nothing else."""

import errno
import html
import json
import os
import re
from itertools import pairwise

import pytest

from diffdpo.config import BaseSettings
from diffdpo.errors import UserError
from diffdpo.report import evaluation, plots
from diffdpo.report.evaluation import look_ahead
from diffdpo.report.page import Report
from diffdpo.report.plots import accuracy_by_timestep, smoothed, training_curves


def test_the_page_holds_its_pictures_and_escapes_text(tmp_path):
    records = [
        {"step": s, "loss": 0.7 - s / 100, "lr": 1e-4, "rewards/accuracies": 0.5}
        for s in range(1, 30)
    ]
    buckets = [{"timesteps": [0, 200], "value": 0.6, "interval": [0.5, 0.7]}]
    report = Report("a <run>")
    report.headline("70 % & more", "why")
    report.picture(training_curves(records), "curves")
    report.picture(accuracy_by_timestep(buckets), "accuracy")
    report.table(["name", "value"], [["<x>", "1"]])
    report.code("a: 1")
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "<run>" not in page
    assert "&lt;x&gt;" in page
    assert not re.search(r"(src|href)=.?https?:", page)


def test_the_running_mean_starts_at_the_first_value_and_stays_in_range():
    means = smoothed([1.0, 0.0, 0.0, 0.0])
    assert means[0] == 1.0
    assert all(a > b > 0 for a, b in pairwise(means))


def test_an_interval_that_rounding_puts_beside_its_value_is_drawn():
    bucket = {"timesteps": [0, 200], "value": 1 / 3, "interval": [1 / 3 + 1e-16, 1 / 3 + 1e-16]}
    assert accuracy_by_timestep([bucket]).startswith(b"\x89PNG")


def test_without_matplotlib_the_page_says_what_its_curves_need(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffdpo.errors.find_spec", lambda name: None)
    look_ahead(str(tmp_path))
    said = capsys.readouterr().out
    assert said == "left out     plots need matplotlib: pip install 'diffdpo[report]'\n"
    report = Report("a run")
    report.plot(lambda: pytest.fail("drawn"), "curves")
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "pip install 'diffdpo[report]'" in html.unescape(page)
    assert "data:image/png" not in page


def panels(monkeypatch, records, *more):
    """The panels of the training curves by title."""
    monkeypatch.setattr(plots, "as_png", lambda page: page)
    page = training_curves(records, *more)
    page.canvas.draw()
    return {axis.get_title(): axis for axis in page.axes if axis.get_visible()}


def test_the_learning_rate_is_drawn_as_it_was_and_steps_are_whole(monkeypatch):
    rates = [1e-4, 5e-5, 2e-5]
    records = [{"step": s, "loss": 0.7, "lr": rate} for s, rate in enumerate(rates, start=1)]
    drawn = panels(monkeypatch, records)
    assert list(drawn) == ["loss", "learning rate"]
    (line,) = drawn["learning rate"].lines
    assert list(line.get_ydata()) == rates
    assert len(drawn["loss"].lines) == 2
    ticks = drawn["loss"].get_xticks()
    assert all(tick == round(tick) for tick in ticks)


def test_what_some_records_lack_is_drawn_where_it_is(monkeypatch):
    records = [
        {"step": 1, "loss": 0.7, "grad_norm": None},
        {"step": 2, "loss": float("nan"), "kl": "high"},
        {"step": 3, "rewards/accuracies": 0.5},
    ]
    drawn = panels(monkeypatch, records)
    assert {title: list(axis.lines[0].get_xdata()) for title, axis in drawn.items()} == {
        "loss": [1],
        "implicit accuracy": [3],
    }
    assert panels(monkeypatch, [{"step": 1}]) == {}


def drifting(step, **more):
    drift = {"drift/winner": step / 1000, "drift/winner_low": step / 2000}
    return {"step": step, "loss": 0.7, **drift, "drift/winner_high": step / 500, **more}


def test_winner_drift_has_a_panel_with_interval_and_what_is_over_trained_is_shaded(monkeypatch):
    records = [{"step": 10, "loss": 0.7}, *map(drifting, range(20, 101, 10))]
    drawn = panels(monkeypatch, records, 80, 0.05)
    axis = drawn["winner drift"]
    assert list(axis.lines[0].get_ydata()) == [step / 1000 for step in range(20, 101, 10)]
    band = axis.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.01, 0.2))
    assert "over-trained from step 80" in axis.get_legend_handles_labels()[1]
    assert 0.05 in [line.get_ydata()[0] for line in axis.lines]
    for shaded in drawn.values():
        assert [patch.get_extents().width > 0 for patch in shaded.patches] == [True]
    plain = panels(monkeypatch, records)
    assert not any(axis.patches for axis in plain.values())
    assert "winner drift" not in panels(monkeypatch, records[:1])


def test_the_page_tells_the_drift_at_the_end_and_since_when_it_is_too_much(tmp_path):
    def page(share):
        records = [json.dumps(drifting(step)) for step in (50, 120, 200)]
        (tmp_path / "metrics.jsonl").write_text("\n".join(records) + "\n")
        (tmp_path / "config.yaml").write_text(f"drift_share: {share}\n")
        report = Report("a run")
        report.about_run(tmp_path, {})
        return html.unescape("".join(report.blocks))

    told = "error on winners is +20.0% [+10.0%, +40.0%] above the reference's"
    assert f"{told}; surely above 5% since step 120." in page(0.05)
    assert f"{told}." in page(0.2)


def test_tables_of_texts_are_aligned_to_the_left(tmp_path):
    report = Report("a run")
    report.table(["reference", "policy"], [["a", "b"]], numbers=False)
    report.table(["reward", "win rate"], [["style", "70 %"]])
    texts, figures = report.blocks
    assert "number" not in texts
    assert '<td class="number">70 %</td>' in figures


def test_the_page_of_a_run_says_which_steps_it_shows(tmp_path):
    records = [json.dumps({"step": step, "loss": 0.7}) for step in (10, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(records) + "\n")
    report = Report("a run")
    report.about_run(tmp_path, {})
    assert "3 records, steps 10 to 30;" in "".join(report.blocks)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"{\n", "line 1 is no record of a step"),
        (b"\xff\n", "cannot be read"),
        (b"[1]\n", "line 1 is no record of a step"),
        (b'{"step": 1}\n{"step": "two"}\n', "line 2 is no record of a step"),
    ],
)
def test_records_that_are_none_are_named_before_the_work_begins(tmp_path, content, line):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=rf"metrics\.jsonl.*{line}"):
        look_ahead(str(tmp_path))


def test_a_full_disk_is_one_line_and_the_figures_are_shown(tmp_path, monkeypatch, capsys):
    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(evaluation, "write_atomically", full)
    with (
        pytest.raises(UserError, match=r"could not be written \(No space left on device\)"),
        evaluation.writing(tmp_path),
    ):
        evaluation.publish(
            tmp_path, "run", "base", BaseSettings(), {}, lambda page: None, ["win rate 70 %"]
        )
    assert capsys.readouterr().out == "win rate 70 %\n"
