"""What is printed is never what ends a command."""

import io
import os
import subprocess
import sys
import threading

import pytest

from diffdpo.engine.output import Outlet
from tests.conftest import ROOT, THREADS

GAMES = "winner,loser\na,b\nb,a\n"
FIT = [sys.executable, "-m", "diffdpo", "fit_bradley_terry", "--comparisons"]


@pytest.fixture
def fit(tmp_path):
    """``fit(stdout, **environment)`` ranks two items; returns exit code, stderr, and whether the
    file of the result is there."""
    (tmp_path / "games.csv").write_text(GAMES)
    result = tmp_path / "ranking.json"
    command = [*FIT, str(tmp_path / "games.csv"), "--output", str(result)]

    def run(stdout, **environment):
        env = {**os.environ, **THREADS, "PYTHONPATH": str(ROOT), **environment}
        done = subprocess.run(command, env=env, stdout=stdout, stderr=-1, text=True, timeout=60)
        return done.returncode, done.stderr, result.is_file()

    return run


def test_a_reader_that_left_is_no_mistake(fit):
    reader, writer = os.pipe()
    os.close(reader)
    assert fit(writer) == (0, "", True)
    os.close(writer)


def test_a_full_disk_is_one_where_the_output_is_the_result(fit):
    with open("/dev/full", "w") as full:
        line = "error: standard output: cannot be written (No space left on device)\n"
        assert fit(full) == (2, line, True)


def test_a_slow_reader_of_a_pipe_that_does_not_block_is_waited_for():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    outlet, data, got = Outlet(writer, "wb"), os.urandom(1 << 20), []

    def read():
        while part := os.read(reader, 1 << 16):
            got.append(part)

    thread = threading.Thread(target=read)
    with io.BufferedWriter(outlet) as stream:
        stream.write(data[:1000])
        thread.start()
        stream.write(data[1000:])
    thread.join(20)
    os.close(reader)
    assert b"".join(got) == data
    assert outlet.lost is None


def test_an_encoding_that_lacks_letters_gets_escapes(fit, tmp_path):
    with (tmp_path / "shown").open("w") as file:
        assert fit(file, PYTHONIOENCODING="ascii") == (0, "", True)
    assert "\\u2026 +" in (tmp_path / "shown").read_text(encoding="ascii")
