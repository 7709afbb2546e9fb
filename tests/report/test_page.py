"""The report is one file that needs nothing else."""

import re
from itertools import pairwise

import pytest

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
    assert "pip install &#x27;diffdpo[report]&#x27;" in page
    assert "data:image/png" not in page
