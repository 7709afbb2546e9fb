"""metrics.jsonl as a user, a crash or a full disk may leave it."""

import re

import pytest

from diffdpo.engine import journal as module
from diffdpo.engine.journal import Journal
from diffdpo.errors import UserError

GOOD = b'{"step": 1, "loss": 0.5}\n'


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (GOOD + b"garbage\n", 2),
        (GOOD + GOOD + b"[1, 2]\n", 3),
        (b'{"loss": 0.5}\n', 1),
        (b'{"step": "one"}\n', 1),
        (b'{"step": null}\n', 1),
        (b'{"step": 1, "not_finite": {"loss": "many"}}\n', 1),
        (b'{"step": 1, "not_finite": 3}\n', 1),
        (b"5\n", 1),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, content, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{re.escape(str(path))}: line {line} is no record"):
        Journal(path).read()


@pytest.mark.parametrize("kind", ["binary", "folder"])
def test_a_file_that_is_no_text_is_named(tmp_path, kind):
    path = tmp_path / "metrics.jsonl"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(UserError, match=r"cannot be read .*; move it away"):
        Journal(path).keep_until(3)


def test_a_disk_that_is_still_full_is_a_line(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(GOOD)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(UserError, match=r"could not be written .No space left on device.; make"):
        Journal(path).keep_until(1)
    assert path.read_bytes() == GOOD


def test_a_line_that_a_crash_cut_short_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(GOOD + GOOD[:10])
    assert Journal(path).read() == [{"step": 1, "loss": 0.5}]
