"""Losses that look beyond a pair: sorted over a step, or held to the mean reward of the run."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from diffdpo.losses.running import RunningMean
from diffdpo.objective.scores import Scores, StepContext
from diffdpo.text.flags.loss_settings import text_objective
from diffdpo.text.settings import TextSettings
from tests.conftest import script
from tests.factory import read_jsonl
from tests.processes import run_two
from tests.text.factory import pair_rows, write_jsonl
from tests.text.runs import fails_with, flags, metrics, train
from tests.text.test_runs import close

ALL = {"loss_type": ["aot", "aot_unpaired", "bco_pair_mean"], "loss_weights": [1, 0.5, 0.3]}
CUT = {"train_batch_size": 1, "gradient_accumulation_steps": 4}


def same(folder, *names):
    """Whether runs logged the same, to rounding."""
    first, *others = [metrics(folder / name) for name in names]
    return all(close(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("changes", [ALL, {"loss_type": "bco"}], ids=["pairs", "items"])
def test_cuts_of_the_effective_batch_log_the_same(lm, data, tmp_path, changes):
    rows = data["labels" if changes["loss_type"] == "bco" else "pairs"]
    train(*flags(lm, rows, tmp_path / "whole", **changes))
    train(*flags(lm, rows, tmp_path / "cut", **changes, **CUT))
    assert same(tmp_path, "whole", "cut")
    lines = metrics(tmp_path / "whole")
    assert lines[0]["delta"] == 0
    assert lines[-1]["delta"] != 0


@pytest.mark.slow
def test_processes_log_the_same(lm, data, tmp_path):
    train(*flags(lm, data["pairs"], tmp_path / "whole", **ALL))
    words = flags(lm, data["pairs"], tmp_path / "two", **ALL, **CUT | {"train_batch_size": 1})
    words[words.index("--gradient_accumulation_steps") + 1] = "2"
    found = run_two(script("train_text_dpo", *words))
    assert found.returncode == 0, found.stderr
    assert same(tmp_path, "whole", "two")


def test_stored_scores_give_the_same(lm, data, tmp_path):
    stored = {"precompute_ref_log_probs": True, "reference_cache_dir": tmp_path / "cache"}
    train(*flags(lm, data["pairs"], tmp_path / "live", **ALL, **CUT))
    train(*flags(lm, data["pairs"], tmp_path / "stored", **ALL, **CUT, **stored))
    assert same(tmp_path, "live", "stored")


def test_delta_is_the_mean_of_all_rewards_so_far(lm, data, tmp_path):
    """As in LLaMA-Factory's ``pref_bco_weight`` and TRL's former BCO trainer: the step's own
    rewards count."""
    train(*flags(lm, data["pairs"], tmp_path / "run", loss_type="bco_pair_mean"))
    seen = []
    for line in metrics(tmp_path / "run"):
        seen.append((line["rewards/chosen"] + line["rewards/rejected"]) / 2)
        assert line["delta"] == pytest.approx(sum(seen) / len(seen), rel=1e-4, abs=1e-6)


def test_the_weighted_mean_is_llama_factorys():
    """Its code: (loss + w · bco) / (1 + w), and then the supervised loss."""
    settings = TextSettings(pref_bco_weight=0.25, rpo_alpha=2.0)
    objective = text_objective(settings)
    assert [(t.name, t.weight) for t in objective.terms] == [
        ("sigmoid", 0.8),
        ("bco_pair_mean", 0.2),
        ("sft", 2.0),
    ]
    running = objective.running
    running.load({"mean": 3.0, "count": 6})
    reward_N = torch.tensor([1.0, -2.0, 0.5, 4.0])  # two pairs; margins 0.5 and −6
    context = objective.settled(reward_N, StepContext())
    delta = 0.1 * (6 * 3.0 + reward_N.sum()) / 10
    draw = SimpleNamespace(outcome_B=None, desirable_N=None, size_N=torch.ones(4))
    terms = replace(objective, terms=objective.terms[:2])
    found = terms.loss(Scores(reward_N), reward_N, draw, context)
    x, y = 0.1 * reward_N.view(2, 2)
    bco = -F.logsigmoid(x - delta) - F.logsigmoid(-(y - delta))
    torch.testing.assert_close(found, (-F.logsigmoid(x - y) + 0.25 * bco) / 1.25)
    shown = terms.metrics(reward_N, draw, context)
    assert shown["delta"].item() == pytest.approx(delta.item())


def test_a_resumed_run_has_the_mean_of_its_past(lm, data, tmp_path):
    changes = {"loss_type": "bco_pair_mean", "checkpointing_steps": 2}
    train(*flags(lm, data["pairs"], tmp_path / "whole", **changes))
    train(*flags(lm, data["pairs"], tmp_path / "run", **changes))
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "state.json").read_text())
    assert state["running"]["count"] == 2 * 2 * 4
    resumed = {"resume_from_checkpoint": tmp_path / "run" / "checkpoint-2"}
    train(*flags(lm, data["pairs"], tmp_path / "run", **changes, **resumed))
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_measuring_does_not_move_the_mean(lm, data, tmp_path):
    held = write_jsonl(tmp_path / "test.jsonl", pair_rows(20)[13:])
    changes = {"eval_dataset_name": held, "eval_strategy": "steps", "eval_steps": 1}
    changes |= {"max_new_tokens": 3, "eval_batch_size": 3}
    train(*flags(lm, data["pairs"], tmp_path / "measured", **ALL, **changes))
    train(*flags(lm, data["pairs"], tmp_path / "quiet", **ALL))
    assert metrics(tmp_path / "measured") == metrics(tmp_path / "quiet")
    evals, steps = read_jsonl(tmp_path / "measured" / "eval.jsonl"), metrics(tmp_path / "quiet")
    assert len(evals) == len(steps)
    for line, step in zip(evals, steps, strict=True):
        assert line["eval_delta"] == pytest.approx(step["delta"], rel=1e-5)
    large = changes | {"eval_batch_size": 7}
    train(*flags(lm, data["pairs"], tmp_path / "large", **ALL, **large))
    for a, b in zip(evals, read_jsonl(tmp_path / "large" / "eval.jsonl"), strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-5)


def test_a_step_that_is_not_taken_leaves_the_mean():
    running, yes, no = RunningMean(), torch.tensor(True), torch.tensor(False)
    running.add(torch.tensor(6.0), torch.tensor(3.0), yes)
    running.add(torch.tensor(float("nan")), torch.tensor(3.0), no)
    assert running.state() == {"mean": 2.0, "count": 3}
    running.add(torch.tensor(0.0), torch.tensor(1.0), yes)
    assert running.state() == {"mean": 1.5, "count": 4}
    other = RunningMean()
    other.load(json.loads(json.dumps(running.state())))
    assert torch.equal(other.mean, running.mean)


def test_a_checkpoint_without_the_mean_is_refused(lm, data, tmp_path, capsys):
    """As a loss of another version would leave it."""
    from diffdpo.engine.checkpoint_state import seal

    changes = {"loss_type": "bco", "checkpointing_steps": 2}
    train(*flags(lm, data["labels"], tmp_path / "run", **changes))
    capsys.readouterr()
    folder = tmp_path / "run" / "checkpoint-2"
    state = json.loads((folder / "state.json").read_text())
    kept = {k: v for k, v in state.items() if k not in ("running", "digest", "files", "format")}
    seal(folder, kept)
    words = flags(lm, data["labels"], tmp_path / "run", **changes, resume_from_checkpoint=folder)
    fails_with([str(word) for word in words], "holds no running mean", capsys)
