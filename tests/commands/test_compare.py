"""Several runs on one page."""

import json

import pytest
import yaml

from diffdpo.cli import main
from tests.factory import encoded, picture


def make_run(folder, rate, losses, **settings):
    folder.mkdir(parents=True)
    config = {"loss_type": "sigmoid", "learning_rate": rate, "output_dir": str(folder), **settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    records = [{"step": s, "loss": loss, "lr": rate} for s, loss in enumerate(losses, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def evaluated(folder, run, value, **more):
    rate = {"value": value, "interval": [value - 0.1, value + 0.1], "n": 40, "clusters": 20}
    content = {"policy": str(run), "reward": "style", "win_rate": {**rate, "method": "bootstrap"}}
    (folder / "evaluation.json").write_text(json.dumps(content | more))
    (folder / "sheet.png").write_bytes(encoded(picture(0)))


@pytest.fixture
def runs(tmp_path):
    slow = make_run(tmp_path / "one" / "train", 1e-5, [0.7] * 10 + [0.5] * 20, beta_dpo=5000)
    fast = make_run(tmp_path / "fast", 1e-4, [0.6] * 30)
    evaluated(tmp_path / "one", slow, 0.7)  # above the run, as a demo leaves it
    evaluated(fast, fast, 0.8)
    return slow, fast


def test_the_page_has_curves_settings_figures_and_sheets(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", *map(str, runs), "--output_dir", str(out)]) == 0
    content = json.loads((out / "compare.json").read_text())
    assert content["settings"] == {
        "learning_rate": {"train": 1e-5, "fast": 1e-4},
        "beta_dpo": {"train": 5000},
    }
    slow, fast = content["runs"]["train"], content["runs"]["fast"]
    assert slow["last"]["loss"] == 0.5  # of the last 20 records
    assert (slow["steps"], fast["last"]["loss"]) == (30, pytest.approx(0.6))
    assert slow["evaluation"]["win_rate"]["value"] == 0.7
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3  # the curves and two sheets
    assert "80.0 % [70.0, 90.0]" in page
    shown = capsys.readouterr().out
    assert "fast         30 steps, loss 0.6, win rate 80.0 % [70.0, 90.0] by style" in shown


def test_a_run_finds_itself_in_an_evaluation_of_several(runs, tmp_path):
    slow, fast = runs
    (slow.parent / "evaluation.json").unlink()
    rate = {"value": 0.6, "interval": [0.5, 0.7], "n": 4, "clusters": 4, "method": "wilson"}
    own = {"run": str(slow), "rewards": {"style": {"win_rate": rate}}}
    evaluated(slow.parent, fast, 0.8, policies={"train": own})
    assert main(["compare", *map(str, runs), "--output_dir", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["runs"]["train"]["evaluation"]["win_rate"]["value"] == 0.6


def test_runs_of_texts_and_runs_without_anything_are_compared(tmp_path):
    text = make_run(tmp_path / "text", 1e-5, [0.7] * 3, model_name_or_path="lm")
    rest = {name: {"value": 1.5, "interval": [1.0, None], "n": 4, "clusters": 4, "method": "t"}
            for name in ("kl", "difference")}  # fmt: skip
    evaluated(text, text, 0.7, **rest)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text("loss_type: ipo\n")
    out = tmp_path / "out"
    assert main(["compare", str(text), str(bare), "--output_dir", str(out)]) == 0
    content = json.loads((out / "compare.json").read_text())
    assert content["runs"]["bare"] == {
        "run": str(bare), "steps": 0, "last": {}, "reward": None, "evaluation": {}
    }  # fmt: skip
    assert content["runs"]["text"]["evaluation"]["kl"]["value"] == 1.5
    assert "1.5 [1, inf]" in (out / "report.html").read_text()


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [make_run(tmp_path / name / "train", 1e-5, [0.7]) for name in ("a", "b")]
    out = tmp_path / "out"
    assert main(["compare", *map(str, folders), "--output_dir", str(out)]) == 0
    assert list(json.loads((out / "compare.json").read_text())["runs"]) == ["train", "b-train"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["one/train"], "two or more runs are needed"),
        (["one/train", "nowhere"], "nowhere: no such folder"),
        (["one/train", "one"], "one: holds neither config.yaml nor metrics.jsonl"),
        (["one/train", "fast", "one/../fast"], "is named twice"),
        (["one/train", "damaged"], "damaged/evaluation.json: no evaluation"),
        (["one/train", "odd"], "odd/metrics.jsonl: cannot be read"),
    ],
)
def test_mistakes_are_one_line(runs, tmp_path, capsys, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    damaged = make_run(tmp_path / "damaged", 1e-5, [0.7])
    (damaged / "evaluation.json").write_text("[1]")
    odd = make_run(tmp_path / "odd", 1e-5, [0.7])
    (odd / "metrics.jsonl").write_bytes(b"\xff\n")
    assert main(["compare", *words, "--output_dir", "out"]) == 2
    (error,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    assert line in error
