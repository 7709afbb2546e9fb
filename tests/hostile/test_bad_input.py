"""Every row of the tables ``bad_*.py``: one clear line, the exit code, no traceback, no waiting."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from diffdpo.cli import main
from tests.hostile.case import Bad, Material

TABLES = sorted(file.stem for file in Path(__file__).parent.glob("bad_*.py"))
CASES: dict[str, Bad] = {
    f"{table.removeprefix('bad_')}: {case.name}": case
    for table in TABLES
    for case in importlib.import_module(f"tests.hostile.{table}").CASES
}
LONGEST = 600  # letters of an error line; foreign text in it is cut at 80


@pytest.fixture
def material(tmp_path, models, lm, pairs, data):
    return Material(tmp_path, models, lm, pairs, data)


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_one_line(name, material, capsys, monkeypatch):
    case = CASES[name]
    monkeypatch.chdir(material.folder)
    code = main([case.command, *map(str, case.make(material))])
    lines = capsys.readouterr().err.splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    assert code == case.code
    assert [line for line in errors if re.match(case.line, line)], errors
    assert not [line for line in lines if "Traceback" in line]
    assert max(map(len, errors)) <= LONGEST


def test_the_tables_hold_at_least_150_cases_under_distinct_names():
    written = sum(
        len(importlib.import_module(f"tests.hostile.{table}").CASES) for table in TABLES
    )
    assert written == len(CASES) >= 150
