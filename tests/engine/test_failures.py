"""Failures that are no bug: one line, which names what helps; a bug keeps its traceback."""

from types import SimpleNamespace

import pytest
import torch

from diffdpo.cli import main, run_command
from diffdpo.engine.bad_steps import BadSteps
from diffdpo.engine.failures import in_one_line, is_lost_peer
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.settings import ImageSettings
from diffdpo.text.settings import TextSettings
from tests.text.runs import flags

GLOO = RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1")


@pytest.mark.parametrize(
    ("settings", "named", "not_named"),
    [
        (ImageSettings(), "--resolution", "--max_length"),
        (TextSettings(), "--max_length", "--resolution"),
        (EvaluateSettings(policy="run"), "--num_prompts", "--train_batch_size"),
        (None, "less at a time", "--"),
    ],
)
def test_a_lack_of_memory_names_the_flags_of_the_command(settings, named, not_named):
    error = in_one_line(torch.OutOfMemoryError("CUDA out of memory. Tried to"), settings)
    assert named in str(error)
    assert not_named not in str(error)


def test_the_size_is_said_in_gibibytes():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert "out of memory (4,194,304.0 GiB were asked for at once)" in str(
        in_one_line(caught.value, None)
    )


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("x"), ValueError("y")])
def test_a_bug_stays_a_bug(error):
    assert in_one_line(error, ImageSettings()) is None


def test_a_lost_peer_is_one_only_where_there_are_peers(monkeypatch):
    assert not is_lost_peer(GLOO)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_lost_peer(GLOO)
    assert not is_lost_peer(RuntimeError("shapes differ"))
    assert not is_lost_peer(ConnectionResetError("reset by peer"))  # of the hub, for instance


def test_a_command_that_shares_no_work_runs_in_the_first_process(monkeypatch, capsys, tmp_path):
    called = []
    work = "diffdpo.commands.fit_bradley_terry.main"
    monkeypatch.setattr(work, lambda settings: called.append(1) or 0)
    games = tmp_path / "games.csv"
    games.write_text("winner,loser\na,b\nb,a\n")
    words = ["fit_bradley_terry", "--comparisons", str(games)]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(words) == 0
    assert called == []
    monkeypatch.setenv("RANK", "0")
    assert main(words) == 0
    assert called == [1]
    assert "this command works in one process" in capsys.readouterr().out


def one_process(scaler):
    return SimpleNamespace(scaler=scaler, gather=lambda tensor: tensor)


def record(**values):
    return {"step": 1, "loss": 0.5, "grad_norm": 1.0, **values}


@pytest.mark.parametrize(
    ("scale", "values", "bad"),
    [
        (65536.0, {"grad_norm": float("inf")}, False),  # the scaler looks for its scale
        (1.0, {"grad_norm": float("inf")}, True),
        (65536.0, {"loss": float("nan"), "grad_norm": float("nan")}, True),
        (65536.0, {}, False),
    ],
)
def test_float16s_search_for_a_scale_is_not_bad(scale, values, bad):
    scaler = SimpleNamespace(get_scale=lambda: scale)
    stream = SimpleNamespace(source=lambda position: position)
    told = []
    steps = BadSteps(5, stream, 2, one_process(scaler), told.append)
    steps.losses = torch.zeros(1, 2)
    row = record(**values)
    steps.judge(row)
    assert (steps.in_a_row, len(told)) == (int(bad), int(bad))
    assert row.get("skipped_rows") == ([0, 1] if bad else None)


def test_a_good_step_ends_the_row():
    stream = SimpleNamespace(source=lambda position: position)
    steps = BadSteps(2, stream, 1, one_process(None), lambda line: None)
    for loss in ("nan", "0.5", "nan", "0.5"):
        steps.judge(record(loss=float(loss)))
        steps.stop_after_too_many(lambda: "")
    assert (steps.in_a_row, steps.count) == (0, 2)


DETERMINISTIC = """
import torch
import torch.nn.functional as F
def asks(chosen_B, rejected_B, *, beta):
    on = torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic
    assert on or not chosen_B.requires_grad
    return -F.logsigmoid(beta * (chosen_B - rejected_B))
"""


def test_a_deterministic_run_repeats(lm, data, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    own = tmp_path / "own.py"
    own.write_text(DETERMINISTIC)
    weights = []
    for name in "ab":
        words = flags(
            lm,
            data["pairs"],
            tmp_path / name,
            use_peft=True,
            deterministic=True,
            max_train_steps=2,
            loss_type=f"{own}:asks",
        )
        assert run_command("train_text_dpo", words) == 0
        weights.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1]
