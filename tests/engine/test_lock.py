"""A folder has one run at a time, however its last one ended."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest

from diffdpo.engine import lock
from diffdpo.engine.files import HOST
from diffdpo.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from diffdpo.engine import lock
lock.take(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""
FORK = """
import os, sys, time
from pathlib import Path
from diffdpo.engine import lock
lock.take(Path(sys.argv[1]))
if os.fork() == 0:
    print("held", os.getpid(), flush=True)
    time.sleep(60)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def nothing_held():
    lock.release()
    yield
    lock.release()


def holder(folder, code=HOLD):
    process = subprocess.Popen(
        [sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().split()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_second_run_is_told_who_holds_the_folder_until_that_one_is_killed(tmp_path):
    process, _ = holder(tmp_path)
    try:
        with pytest.raises(UserError, match=f"process {process.pid} on .* trains in it"):
            lock.take(tmp_path)
    finally:
        kill(process)
    lock.take(tmp_path)  # nothing has to be cleaned up
    assert json.loads((tmp_path / lock.FILE).read_text())["process"] == os.getpid()


def test_a_worker_that_outlives_its_run_does_not_hold_the_folder(tmp_path):
    process, (_, child) = holder(tmp_path, FORK)
    try:
        kill(process)
        assert lock.is_alive(int(child))
        lock.take(tmp_path)
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_process_may_take_its_own_folder_again_and_leaves_no_file(tmp_path):
    lock.take(tmp_path)
    lock.take(tmp_path / ".")
    lock.release()
    assert not list(tmp_path.iterdir())
    lock.release()


def holder_file(folder, **changes):
    own = lock.Holder(HOST, os.getppid(), lock.start_of(os.getppid()))
    (folder / lock.FILE).write_text(json.dumps({**vars(own), **changes}))


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({}, False),
        ({"process": 2**22 + 1}, True),  # beyond the largest number of a process
        ({"started": "1"}, True),  # the number belongs to a later process
        ({"host": "elsewhere"}, False),
    ],
)
def test_without_flock_the_file_is_the_lock(tmp_path, monkeypatch, changes, free):
    def unsupported(descriptor, how):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    holder_file(tmp_path, **changes)
    held = nullcontext() if free else pytest.raises(UserError, match="trains in it")
    with held:
        lock.take(tmp_path)


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / lock.FILE).mkdir()
    with pytest.raises(UserError, match=r"\.run\.lock cannot be written \(Is a directory\)"):
        lock.take(tmp_path)


def test_the_lock_of_a_deleted_file_is_none(tmp_path):
    """The holder deletes its file at the end, while another one may have opened it before."""
    lock.take(tmp_path)
    (descriptor,) = lock.held.values()
    assert lock.is_file_of(tmp_path.resolve() / lock.FILE, descriptor)
    (tmp_path / lock.FILE).unlink()
    assert not lock.is_file_of(tmp_path.resolve() / lock.FILE, descriptor)
    (tmp_path / lock.FILE).touch()
    assert not lock.is_file_of(tmp_path.resolve() / lock.FILE, descriptor)


def test_the_start_tells_processes_of_one_number_apart():
    first = lock.start_of(os.getpid())
    time.sleep(0.05)
    assert first == lock.start_of(os.getpid())
    assert first != lock.start_of(1) or not first
    assert lock.start_of(2**22 + 1) == ""
