"""Processes that nobody has started together share the shards of a table by claims."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from diffdpo.cache import claims, filling
from diffdpo.cache.claims import claim_of, claimed, is_abandoned
from diffdpo.cache.shards import shard_path
from diffdpo.engine.files import HOST
from tests.cache.test_tables import KEY, Squares, squares
from tests.conftest import ROOT, THREADS

# A process that fills the table of squares, slowly, and prints the first row of each of its shards.
WORKER = """
import sys, time
from diffdpo.cache import filling
from tests.cache.test_tables import Squares, squares
filling.POLL = 0.05
class Slow(Squares):
    def __call__(self, span):
        print("shard", span.start, flush=True)
        time.sleep(float(sys.argv[2]))
        yield from super().__call__(span)
assert squares(sys.argv[1], compute=Slow()) == [n ** 2 for n in range(100)]
"""
ELSEWHERE = {"host": "another", "process": 1, "started": ""}


def worker(folder, pause=0.3):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(pause)],
        cwd=ROOT,
        env={**os.environ, **THREADS, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def contents(folder):
    files = sorted((folder / KEY.folder).glob("*.arrow"))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def shards_of(output):
    return [int(line.split()[1]) for line in output.splitlines() if line.startswith("shard")]


def test_processes_without_a_launcher_share_the_shards_and_the_table_is_that_of_one(tmp_path):
    squares(tmp_path / "one")
    workers = [worker(tmp_path / "three") for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in workers]
    assert [process.returncode for process in workers] == [0, 0, 0]
    done = [start for output in outputs for start in shards_of(output)]
    assert sorted(done) == list(range(0, 100, 16))  # each shard once
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert not list((tmp_path / "three" / KEY.folder).glob(".*"))


def test_what_a_killed_process_held_is_taken_at_once(tmp_path):
    process = worker(tmp_path / "killed", pause=60)
    path = shard_path(tmp_path / "killed" / KEY.folder, range(0, 16))
    while not (claim_of(path).exists() and claim_of(path).read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert claim_of(path).exists()
    squares(tmp_path / "one")
    start = time.monotonic()
    squares(tmp_path / "killed")
    assert time.monotonic() - start < claims.PATIENCE / 2
    assert contents(tmp_path / "killed") == contents(tmp_path / "one")
    assert not claim_of(path).exists()


def claim(folder, age, holder=ELSEWHERE):
    """A claim of the second shard, by a process of which nothing was heard for so long."""
    path = shard_path(folder / KEY.folder, range(16, 32))
    path.parent.mkdir(parents=True, exist_ok=True)
    claim_of(path).write_text(json.dumps(holder))
    os.utime(claim_of(path), (time.time() - age,) * 2)
    return path


def test_a_claim_without_a_sign_of_life_for_a_minute_is_taken_over(tmp_path):
    path = claim(tmp_path, 61)
    assert is_abandoned(claim_of(path))
    compute = Squares()
    squares(tmp_path, compute=compute)
    assert compute.computed == list(range(100))
    assert not claim_of(path).exists()


def test_a_claim_that_is_alive_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(filling, "POLL", 0.05)
    path = claim(tmp_path, 50)
    assert not is_abandoned(claim_of(path))
    ready = tmp_path / "ready"
    squares(ready)
    compute = Squares()

    def other():
        """Another process that gets done."""
        while len(compute.computed) < 84:
            time.sleep(0.02)
        (ready / KEY.folder / path.name).rename(path)

    thread = threading.Thread(target=other)
    thread.start()
    assert squares(tmp_path, compute=compute) == [number**2 for number in range(100)]
    thread.join()
    assert not set(compute.computed) & set(range(16, 32))


def test_a_claim_is_kept_alive_and_given_back_even_where_the_work_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    path = tmp_path / "file"

    def fail():
        with claimed(path) as ours:
            assert ours
            os.utime(claim_of(path), (0, 0))
            while claim_of(path).stat().st_mtime == 0:
                time.sleep(0.01)
            with claimed(path) as second:
                assert not second
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not claim_of(path).exists()


def test_one_that_was_taken_over_is_left_to_its_new_holder(tmp_path):
    with claimed(tmp_path / "file"):
        claim_of(tmp_path / "file").write_text(json.dumps(ELSEWHERE))
    assert claim_of(tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("process", "gone"), [(os.getpid(), False), (2**22 + 1, True)], ids=["this one", "none"]
)
def test_of_this_machine_it_is_known_whether_the_holder_lives(tmp_path, process, gone):
    started = claims.own().started if process == os.getpid() else ""
    path = claim(tmp_path, 0, {"host": HOST, "process": process, "started": started})
    assert is_abandoned(claim_of(path)) == gone
