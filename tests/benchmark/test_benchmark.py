"""The command itself, on tiny models."""

import json
import os
import subprocess
import sys

import pytest

from diffdpo import cli
from diffdpo.cli import Command
from diffdpo.errors import UserError
from scripts.benchmark.size import FULL, Work
from scripts.benchmark.subjects import all_subjects, choose
from scripts.benchmark.targets import targets
from scripts.benchmark.work import MARKER, fresh_folder
from tests.benchmark.test_peers import write
from tests.conftest import ROOT, THREADS

LEAVES = """
flags = ["--beta_dpo", "--dreamlike_pairs_only"]
print("train.py: error: unrecognized arguments")
raise SystemExit(2)
"""


def benchmark(folder, *words):
    """As a person starts it, from another folder than the checkout's."""
    outputs = ["--work_dir", str(folder / "work"), "--output", str(folder / "out" / "table")]
    size = ["--small", "--repetitions", "1", "--steps", "1", "--threads", "1"]
    command = [sys.executable, str(ROOT / "scripts" / "benchmark"), *size, *outputs, *words]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **THREADS}, timeout=1200)
    read = json.loads((folder / "out" / "table.json").read_text())
    return done.returncode, {row["name"]: row for row in read["rows"]}, read


@pytest.mark.slow
def test_ours_beside_a_script_that_fails(tmp_path):
    script = write(tmp_path, LEAVES)
    patterns = ["full-fp32-uncached", "full-fp32-salesforce"]
    code, rows, read = benchmark(tmp_path, "--subjects", *patterns, "--peer-script", str(script))
    assert code == 1
    assert rows["full-fp32-salesforce"]["error"] == "train.py: error: unrecognized arguments"
    ours = rows["full-fp32-uncached"]
    assert ours["error"] is None
    assert len(ours["wall"]) == len(ours["bare_wall"]) == 1
    assert ours["bare_wall"][0] > 0
    assert ours["ram"] > 100
    assert read["machine"]["threads"] == "1"
    assert (tmp_path / "out" / "table.png").read_bytes().startswith(b"\x89PNG")
    assert "failed: train.py: error" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.slow
def test_all_of_ours_and_trl(tmp_path):
    code, rows, _ = benchmark(tmp_path, "--subjects", "*-fp32-*")
    assert {name: row["error"] for name, row in rows.items() if row["error"]} == {}
    assert code == 0
    assert all(row["wall"] for row in rows.values())
    assert {name for name, row in rows.items() if row["cold_setup"]} == {
        "lora-fp32-latents",
        "lora-fp32-scores",
        "lora-fp32-compiled",
        "full-fp32-latents",
        "full-fp32-scores",
        "full-fp32-compiled",
        "text-fp32-stored",
    }
    assert all(row["bare_wall"] for name, row in rows.items() if not name.endswith("trl"))


def subjects(tmp_path):
    return all_subjects(Work(tmp_path, FULL), 13, [])


def test_groups_stand_together_and_names_say_what_they_are(tmp_path):
    rows = subjects(tmp_path)
    groups = [subject.group for subject in rows]
    assert [g for i, g in enumerate(groups) if i == 0 or groups[i - 1] != g] == list(
        dict.fromkeys(groups)
    )
    assert len({subject.name for subject in rows}) == len(rows)
    assert all(subject.name.startswith(subject.group) for subject in rows)


def test_every_target_names_rows_that_there_are(tmp_path):
    names = {subject.name for subject in subjects(tmp_path)}
    bare = {target.work for target in targets(32, 88.0) if target.against == "bare network"}
    assert bare <= names


def test_rows_are_chosen_by_pattern(tmp_path):
    rows = subjects(tmp_path)
    assert {subject.name for subject in choose(rows, ["lora-fp32-s*", "text-bf16-live"])} == {
        "lora-fp32-scores",
        "text-bf16-live",
    }
    assert choose(rows, []) == rows
    with pytest.raises(UserError, match="no such row"):
        choose(rows, ["lora-fp64-*"])


def test_only_its_own_folder_is_emptied(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds other files"):
        fresh_folder(str(tmp_path / "mine"))
    folder = fresh_folder(str(tmp_path / "new"))
    (folder / "old").touch()
    assert [path.name for path in fresh_folder(str(folder)).iterdir()] == [MARKER]


def test_impossible_settings_are_named(capsys):
    words = ["--repetitions", "0", "--threads", "-1"]
    command = Command("", "scripts.benchmark.command:BenchmarkSettings", "")
    assert cli.run(command, "scripts.benchmark.command", "benchmark", words) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
