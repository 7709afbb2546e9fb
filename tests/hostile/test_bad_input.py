"""Every row of the tables ``bad_*.py``: one clear line, the exit code, no traceback, no waiting."""

from __future__ import annotations

import importlib
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffdpo.cli import main
from diffdpo.metrics import REWARDS, TEXT_REWARDS
from tests.hostile.case import Bad, Material

OWN_ROWS: dict[str, dict] = {"pictures": REWARDS, "texts": TEXT_REWARDS}
TABLES = sorted(file.stem for file in Path(__file__).parent.glob("bad_*.py"))
CASES: dict[str, Bad] = {
    f"{table.removeprefix('bad_')}: {case.name}": case
    for table in TABLES
    for case in importlib.import_module(f"tests.hostile.{table}").CASES
}
SECONDS = 60  # a case takes one second at most on an idle machine
LONGEST = 600  # letters of an error line; foreign text in it is cut at 80


class NoEnd(BaseException):
    """A case that goes on. Not an Exception: a reader of bad input would take it for its own."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise NoEnd in the body after so many seconds."""

    def stop(*_: object) -> None:
        raise NoEnd

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def material(tmp_path, models, lm, pairs, data):
    before = {name: set(table) for name, table in OWN_ROWS.items()}
    yield Material(tmp_path, models, lm, pairs, data)
    for name, table in OWN_ROWS.items():  # functions of a case's own are in them
        for row in set(table) - before[name]:
            del table[row]


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_one_line(name, material, capsys, monkeypatch):
    case = CASES[name]
    monkeypatch.chdir(material.folder)
    for variable, value in case.environment.items():
        monkeypatch.setenv(variable, value)
    flags = [str(word) for word in case.make(material)]
    with within(SECONDS):
        code = main([case.command, *flags])
    lines = capsys.readouterr().err.splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    assert code == case.code
    assert [line for line in errors if re.match(case.line, line)], errors
    assert not [line for line in lines if "Traceback" in line]
    assert max(map(len, errors)) <= LONGEST


def test_the_tables_hold_at_least_150_cases_under_distinct_names():
    written = sum(len(importlib.import_module(f"tests.hostile.{table}").CASES) for table in TABLES)
    assert written == len(CASES) >= 150
