"""What killed runs leave is tidied up, and nothing that is whole is lost."""

import os
import subprocess
import sys

import pytest

from diffdpo.engine.files import HOST, atomic_folder, tidy


def dead_process():
    words = [sys.executable, "-c", "import os; print(os.getpid())"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def test_drafts_of_dead_processes_go(tmp_path):
    dead = dead_process()
    (tmp_path / f".checkpoint-4.{HOST}-{dead}.tmp").mkdir()
    (tmp_path / f".checkpoint-4.{HOST}-{dead}.tmp" / "half").write_text("x")
    (tmp_path / f".metrics.jsonl.{HOST}-{dead}.tmp").write_text("x")
    (tmp_path / f".metrics.jsonl.{HOST}-{os.getppid()}.tmp").write_text("still being written")
    (tmp_path / ".hidden.tmp").write_text("not ours")
    tidy(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".hidden.tmp", f".metrics.jsonl.{HOST}-{os.getppid()}.tmp"]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_kill_between_the_two_names_of_a_folder_loses_nothing(tmp_path, replaced):
    (tmp_path / ".checkpoint-4.old").mkdir()
    (tmp_path / ".checkpoint-4.old" / "state.json").write_text("old")
    if replaced:
        (tmp_path / "checkpoint-4").mkdir()
        (tmp_path / "checkpoint-4" / "state.json").write_text("new")
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert (tmp_path / "checkpoint-4" / "state.json").read_text() == ("new" if replaced else "old")


def test_a_folder_is_replaced_whole(tmp_path):
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "out") as draft:
            (draft / "file").write_text(text)
    assert (tmp_path / "out" / "file").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
