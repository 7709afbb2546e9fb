"""``diffdpo demo``, ``demo-flow``, ``demo-text``: the bundled runs from end to end, cut short."""

import json
import re

import pytest

from diffdpo.cli import main
from diffdpo.commands.settings import DemoFlowSettings, DemoSettings, DemoTextSettings
from diffdpo.engine.run import TrainingResult
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("no_plots")
SHORT_IMAGES = (
    "--max_train_steps 1 --max_train_samples 16 --report_to none",
    "--num_prompts 2 --images_per_prompt 1 --num_inference_steps 2 --implicit_draws 1",
)
SHORT = {
    "demo": (DemoSettings, *SHORT_IMAGES),
    "demo-flow": (DemoFlowSettings, *SHORT_IMAGES),
    "demo-text": (
        DemoTextSettings,
        "--max_train_steps 1 --max_train_samples 16 --train_batch_size 4 --report_to none",
        "--split validation --num_prompts 2 --samples_per_prompt 1 --max_new_tokens 4",
    ),
}


@pytest.mark.parametrize("name", SHORT)
def test_a_demo_trains_judges_and_goes_on(name, tmp_path, monkeypatch, capsys):
    cls, training, evaluation = SHORT[name]
    for flags, more in (("training", training), ("evaluation", evaluation)):
        full = getattr(cls, flags).fget
        longer = property(lambda self, full=full, more=more: [*full(self), *more.split()])
        monkeypatch.setattr(cls, flags, longer)
    assert main([name, "--output_dir", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "from the run" in shown
    assert "held-out prompts" in shown
    assert "trained on" not in shown
    assert shown.splitlines()[-1].endswith("out/report.html")
    assert (tmp_path / "out" / "train" / "metrics.jsonl").exists()
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["settings"]["policy"] == str(tmp_path / "out" / "train")
    if name == "demo-flow":  # as in the recipe, in the evaluation as well
        assert result["settings"]["max_sequence_length"] == 8
    # That pictures are judged alike twice is tested with the command; here that of texts is enough.
    monkeypatch.setattr("diffdpo.commands.evaluate.main", lambda settings, alone: 0)
    assert main([name, "--output_dir", str(tmp_path / "out")]) == 0
    assert "resumed" in capsys.readouterr().out
    again = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert again == result


def test_a_demo_has_one_flag(capsys):
    assert main(["demo", "--num_prompts", "3"]) == 2
    assert "unknown flag --num_prompts" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    assert "runs/demo" in capsys.readouterr().out


@pytest.mark.parametrize("name", SHORT)
def test_a_stopped_demo_is_not_judged_and_says_so_by_its_code(name, tmp_path, monkeypatch):
    from diffdpo.commands import evaluate, evaluate_text, train_diffusion_dpo, train_text_dpo

    for module in (train_diffusion_dpo, train_text_dpo):
        stopped = TrainingResult(tmp_path, finished=False, network=None)
        monkeypatch.setattr(module, "train", lambda *arguments, result=stopped: result)
    for module in (evaluate, evaluate_text):
        monkeypatch.setattr(module, "main", pytest.fail)
    assert main([name, "--output_dir", str(tmp_path / "out")]) == 3


def test_make_targets_go_on_where_they_were_stopped():
    rules = (ROOT / "Makefile").read_text().split("\n\n")
    name = re.compile(r"^(demo|demo-flow|demo-rounds|control|demo-text): ", re.MULTILINE)
    named = [rule for rule in rules if name.search(rule)]
    assert len(named) == 5
    assert not [rule for rule in named if "rm -rf" in rule or "launch" in rule]
