"""Single-point changes: each is one, each is code, and none is of a type or a docstring."""

import ast

import pytest

from scripts.mutants.command import TESTS
from scripts.mutants.mutations import mutants_of
from tests.conftest import ROOT

SOURCE = '''"""Module 1."""
rate: int = 2


def step(x: "Tensor[1]", weights) -> tuple[int, int]:
    """One docstring, 2 numbers."""
    if weights and not x:
        raise ValueError(f"{x + 1} é")
    weights["é"] = -x.clamp(min=0)
    return max(x, rate) if x else x < 0.5
'''
CHANGES = {
    ("2", "3"),
    ("weights and (not x)", "weights or not x"),
    ("not x", "x"),
    ("raise ValueError(f'{x + 1} é')", "pass"),
    ("weights['é'] = -x.clamp(min=0)", "pass"),
    ("-x.clamp(min=0)", "x.clamp(min=0)"),
    ("x.clamp(min=0)", "x"),
    ("0", "1"),
    ("x", "not x"),
    ("max(x, rate) if x else x < 0.5", "x < 0.5 if x else max(x, rate)"),
    ("max(x, rate)", "x"),
    ("max(x, rate)", "max(rate, x)"),
    ("x < 0.5", "x <= 0.5"),
    ("x < 0.5", "x >= 0.5"),
    ("0.5", "1.5"),
}


def test_the_changes_of_a_small_module(tmp_path):
    (tmp_path / "small.py").write_text(SOURCE)
    mutants = mutants_of(tmp_path, "small.py")
    assert {(mutant.before, mutant.after) for mutant in mutants} == CHANGES
    assert len(mutants) == len(CHANGES)
    dropped = next(mutant for mutant in mutants if mutant.before.startswith("weights["))
    expected = SOURCE.replace('weights["é"] = -x.clamp(min=0)', "pass")
    assert (dropped.source, dropped.line) == (expected, 9)


@pytest.mark.parametrize("name", TESTS)
def test_every_mutant_is_other_code(name):
    path = f"diffdpo/{name}.py"
    original = ast.dump(ast.parse((ROOT / path).read_text()))
    mutants = mutants_of(ROOT, path)
    assert len({mutant.source for mutant in mutants}) == len(mutants) > 10
    assert all(ast.dump(ast.parse(mutant.source)) != original for mutant in mutants)


@pytest.mark.parametrize("name", TESTS)
def test_every_module_has_tests(name):
    assert all((ROOT / "tests" / test).exists() for test in TESTS[name])
