"""Ctrl-C, SIGTERM and lost processes, in real processes: a line that fits the moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from diffdpo.engine.interrupts import is_importing
from tests.commands.image_runs import wait_for_lines
from tests.conftest import ROOT, THREADS, two_processes
from tests.factory import read_jsonl
from tests.processes import Started, start_two
from tests.text.runs import flags

# Sends itself Ctrl-C when a module is looked for, which is while it is being imported.
AT_IMPORT = """
import os, signal, sys
module = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from diffdpo import __main__ as entry
sys.exit(entry.run_command("train_text_dpo"))
"""
# Ctrl-C while the result is written.
AT_EXPORT = """
import os, signal, sys, time
from diffdpo.commands import train_text_dpo
def export(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
train_text_dpo.export = export
from diffdpo.cli import run_command
sys.exit(run_command("train_text_dpo", sys.argv[1:]))
"""
# The first process cannot write its checkpoint; the second one has an ordinary run.
FULL_DISK = """
import os, sys
from diffdpo.engine import checkpoint
def save_file(*arguments):
    raise OSError(28, "No space left on device")
if os.environ["RANK"] == "0":
    checkpoint.save_file = save_file
from diffdpo.cli import run_command
sys.exit(run_command("train_text_dpo", sys.argv[1:]))
"""
PLAIN = """
import sys
from diffdpo.cli import run_command
sys.exit(run_command("train_text_dpo", sys.argv[1:]))
"""
# As the scripts start it.
INSTALLED = """
import sys
from diffdpo.__main__ import run_command
sys.exit(run_command("train_text_dpo"))
"""
# The loss of the second process alone is not a number, from step 2 on.
BROKEN_IN_ONE = """
import os
import torch
import torch.nn.functional as F
seen = [0]
def broken(chosen_B, rejected_B, *, beta):
    seen[0] += chosen_B.requires_grad
    loss_B = -F.logsigmoid(beta * (chosen_B - rejected_B))
    if os.environ.get("RANK") == "1" and seen[0] > 1:
        loss_B = loss_B * torch.tensor([1.0, float("nan")])
    return loss_B
"""


def words(lm, data, out, **changes):
    options = {"use_peft": True, "lora_r": 2, "train_batch_size": 2, "logging_steps": 1}
    return [str(word) for word in flags(lm, data["pairs"], out, **{**options, **changes})]


def start(command):
    env = {**os.environ, **THREADS, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=-1, stderr=-1, text=True)


def told(process):
    """Exit code and the lines of stderr that are neither progress nor a library's warning."""
    _, complaint = process.communicate(timeout=120)
    assert "Traceback" not in complaint, complaint
    lines = [line.split("\r")[-1] for line in complaint.splitlines()]
    return process.returncode, [
        line for line in lines if line.startswith(("error", "process", "interrupted"))
    ]


@pytest.mark.parametrize(
    "module", ["diffdpo.cli", "torch", "transformers.models.llama.modeling_llama"]
)
def test_ctrl_c_during_imports_is_a_line(lm, data, tmp_path, module):
    process = start([sys.executable, "-c", AT_IMPORT, module, *words(lm, data, tmp_path / "run")])
    code, (line,) = told(process)
    assert code == 130
    assert line.startswith("interrupted before")
    assert line.endswith("nothing to save")


def test_ctrl_c_at_the_export_names_the_checkpoint(lm, data, tmp_path):
    out = tmp_path / "run"
    code, (line,) = told(Started([sys.executable, "-c", AT_EXPORT, *words(lm, data, out)]))
    assert code == 130
    assert line == (
        f"interrupted; {out / 'checkpoint-4'} is whole, go on with --resume_from_checkpoint latest"
    )


def test_a_signal_is_answered_with_the_step_that_is_saved(lm, data, tmp_path):
    out = tmp_path / "run"
    process = Started([sys.executable, "-c", PLAIN, *words(lm, data, out, max_train_steps=100_000)])
    wait_for_lines(process, out, 2)
    process.send_signal(signal.SIGTERM)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 3
    last = read_jsonl(out / "metrics.jsonl")[-1]["step"]
    assert f"\nfinishing step {last}, then saving; again to quit now" in complaint
    assert (out / f"checkpoint-{last}").is_dir()


@pytest.mark.parametrize("code", [FULL_DISK, PLAIN], ids=["full disk", "killed"])
def test_when_one_process_ends_the_other_says_a_line(lm, data, tmp_path, code):
    out = tmp_path / "run"
    long = {"max_train_steps": 100_000, "checkpointing_steps": 3}
    first, second = start_two([sys.executable, "-c", code, *words(lm, data, out, **long)])
    if code == PLAIN:
        wait_for_lines(first, out, 2)
        second.kill()
        second.communicate()
        assert told(first) == (
            1,
            ["process 0: another process of this run ended, so this one ends too"],
        )
    else:
        ended, (line,) = told(first)
        assert ended == 2
        assert "checkpoint-3: could not be written" in line
        assert told(second) == (
            1,
            ["process 1: another process of this run ended, so this one ends too"],
        )


def test_all_processes_decide_alike_on_a_bad_step(lm, data, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(BROKEN_IN_ONE)
    out = tmp_path / "run"
    bad = {"loss_type": f"{path}:broken", "max_bad_steps": 2, "checkpointing_steps": 1}
    first, second = start_two([sys.executable, "-c", PLAIN, *words(lm, data, out, **bad)])
    code, (line,) = told(first)
    assert code == 2
    assert "2 steps in a row" in line
    assert f"{out / 'checkpoint-1'} is whole" in line
    assert told(second) == (2, [])
    assert ["skipped_rows" in row for row in read_jsonl(out / "metrics.jsonl")] == [
        False,
        True,
        True,
    ]
    row = read_jsonl(out / "metrics.jsonl")[1]
    assert row["bad_rows"] == [row["skipped_rows"][3]]  # the second row of the second process


def test_orphans_of_a_launcher_save_and_end(lm, data, tmp_path):
    out = tmp_path / "run"
    launcher = start(
        two_processes("train_text_dpo", *words(lm, data, out, max_train_steps=100_000))
    )
    wait_for_lines(launcher, out, 2)
    launcher.kill()
    until = time.monotonic() + 60
    while not list(out.glob("checkpoint-*")) and time.monotonic() < until:
        time.sleep(0.1)
    launcher.communicate(timeout=60)  # ends when the last process has closed its stdout
    last = read_jsonl(out / "metrics.jsonl")[-1]["step"]
    assert [path.name for path in out.glob("checkpoint-*")] == [f"checkpoint-{last}"]


def test_ctrl_c_that_ends_the_reader_of_the_log_as_well_loses_nothing(lm, data, tmp_path):
    """As ``… 2>&1 | tee log`` does in a terminal."""
    out, pipe = tmp_path / "run", tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", INSTALLED, *words(lm, data, out, max_train_steps=100_000)]
    process = Started(command, files=[pipe, pipe])
    reader = os.open(pipe, os.O_RDONLY)
    wait_for_lines(process, out, 2)
    os.close(reader)
    process.send_signal(signal.SIGINT)
    process.process.join(60)
    assert process.returncode == 3
    last = read_jsonl(out / "metrics.jsonl")[-1]["step"]
    assert (out / f"checkpoint-{last}").is_dir()


def test_an_import_is_seen_from_inside():
    assert not is_importing(sys._getframe())
