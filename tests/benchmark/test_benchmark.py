"""The command itself, on tiny models."""

import json

import pytest

from diffdpo.benchmark.size import FULL, Work
from diffdpo.benchmark.subjects import all_subjects, choose
from diffdpo.benchmark.targets import targets
from diffdpo.benchmark.work import MARKER, fresh_folder
from diffdpo.cli import run_command
from diffdpo.errors import UserError
from tests.benchmark.test_peers import write

LEAVES = """
known = ["--beta_dpo", "--dreamlike_pairs_only"]
print("train.py: error: unrecognized arguments")
raise SystemExit(2)
"""


def benchmark(folder, *words):
    places = ["--work_dir", str(folder / "work"), "--output", str(folder / "out" / "table")]
    code = run_command(
        "benchmark",
        ["--small", "--repetitions", "1", "--steps", "1", "--threads", "1", *places, *words],
    )
    read = json.loads((folder / "out" / "table.json").read_text())
    return code, {row["name"]: row for row in read["rows"]}, read


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
    found = subjects(tmp_path)
    groups = [subject.group for subject in found]
    assert [g for i, g in enumerate(groups) if i == 0 or groups[i - 1] != g] == list(
        dict.fromkeys(groups)
    )
    assert len({subject.name for subject in found}) == len(found)
    assert all(subject.name.startswith(subject.group) for subject in found)


def test_every_target_names_rows_that_there_are(tmp_path):
    names = {subject.name for subject in subjects(tmp_path)}
    bare = {target.work for target in targets(32, 88.0) if target.against == "bare network"}
    assert bare <= names


def test_rows_are_chosen_by_pattern(tmp_path):
    found = subjects(tmp_path)
    assert {subject.name for subject in choose(found, ["lora-fp32-s*", "text-bf16-live"])} == {
        "lora-fp32-scores",
        "text-bf16-live",
    }
    assert choose(found, []) == found
    with pytest.raises(UserError, match="no such row"):
        choose(found, ["lora-fp64-*"])


def test_only_its_own_folder_is_emptied(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds other files"):
        fresh_folder(str(tmp_path / "mine"))
    folder = fresh_folder(str(tmp_path / "new"))
    (folder / "old").touch()
    assert [path.name for path in fresh_folder(str(folder)).iterdir()] == [MARKER]


def test_impossible_settings_are_named(capsys):
    assert run_command("benchmark", ["--repetitions", "0", "--threads", "-1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
