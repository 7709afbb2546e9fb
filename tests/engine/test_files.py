"""What killed runs leave is tidied up, and nothing that is whole is lost."""

import errno
import os
import subprocess
import sys

import pytest

from diffdpo.engine import files
from diffdpo.engine.files import (
    HOST,
    atomic_files,
    atomic_folder,
    draft_of,
    tidy,
    write_atomically,
)
from diffdpo.errors import UserError


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


def test_a_lone_process_removes_drafts_of_other_machines_and_of_its_own_number(tmp_path):
    """In a container the machine has another name after every start, and the process the same."""
    left = [
        tmp_path / f".a.{host}-{process}.tmp"
        for host, process in [("other", 7), (HOST, os.getpid())]
    ]
    for draft in left:
        draft.mkdir()
    tidy(tmp_path)
    assert list(tmp_path.iterdir()) == [left[0]]
    os.utime(left[0], (0, 0))
    tidy(tmp_path)  # where others may write as well, after a day
    assert not list(tmp_path.iterdir())
    left[0].mkdir()
    tidy(tmp_path, alone=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_has_its_name_at_every_moment(tmp_path, monkeypatch, can_exchange):
    """Where the system can swap names; elsewhere ``tidy`` mends the moment between two renames."""
    replace, missing = os.replace, []

    def watched(source, target):
        missing.append(not (tmp_path / "out").exists())
        replace(source, target)

    if not can_exchange:
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    elif not files.exchange(tmp_path, tmp_path):
        pytest.skip("this system cannot swap names")
    for text in ("first", "second"):
        with atomic_folder(tmp_path / "out") as draft:
            (draft / "file").write_text(text)
        monkeypatch.setattr(os, "replace", watched)
    assert (tmp_path / "out" / "file").read_text() == "second"
    assert missing == ([] if can_exchange else [False, True])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_contents_are_on_the_disk_before_their_name_is(tmp_path, monkeypatch):
    """What a power cut leaves is the order of flushes and renames; both are watched here."""
    order, fsync, replace = [], os.fsync, os.replace

    def watched_sync(descriptor):
        order.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def watched_replace(source, target):
        order.append("rename")
        replace(source, target)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("this system does not name open files")
    monkeypatch.setattr(os, "fsync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_atomically(tmp_path / "f", "text")
    assert order == [str(draft_of(tmp_path / "f")), "rename", str(tmp_path)]
    order.clear()
    with atomic_folder(tmp_path / "out") as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "file").write_text("text")
    assert order == [
        *map(str, (draft, draft / "sub", draft / "sub" / "file")),
        "rename",
        str(tmp_path),
    ]
    order.clear()
    with atomic_files(tmp_path / "out") as draft:
        (draft / "file").write_text("text")
    assert order == [*map(str, (draft, draft / "file")), "rename", str(tmp_path / "out")]


def test_a_disk_that_takes_no_more_is_one_line_and_keeps_the_old_content(tmp_path, monkeypatch):
    (tmp_path / "f").write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"f: could not be written \(No space left on device\)"):
        write_atomically(tmp_path / "f", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder: could not be written"):
        write_atomically(tmp_path / "folder", "new")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"folder: could not be written \(Is a directory\)"):
        write_atomically(tmp_path / "folder", "new")
    assert (tmp_path / "folder").is_dir()
