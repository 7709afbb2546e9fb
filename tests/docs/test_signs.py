"""The table of what a run tells has every line that a run prints, with the flags that the line
itself names."""

import re

import pytest

from diffdpo.engine.watch.overtrained import ERROR, GAIN, verdict
from diffdpo.engine.watch.watch import ADVICE, told
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "choosing.md"
# Printed elsewhere, at the start, at every measurement and at the end.
OTHERS = {"spread", "held out", "diversity", "over-trained", "stops early", "not taken"}


def rows():
    """What to do by the name of the line."""
    text = PAGE.read_text().split("### What a run tells you, and what to do\n", 1)[1]
    table = [line for line in text.split("\n#", 1)[0].splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    assert all(len(row) == 3 for row in cells)
    return {name.strip("` "): do for name, _, do in cells}


def test_every_line_has_its_row_and_no_row_is_of_a_line_that_is_never_printed():
    assert set(rows()) == {*ADVICE, *OTHERS}


@pytest.mark.parametrize("kind", ADVICE)
def test_the_page_advises_what_the_line_does(kind):
    line = told(kind, 7, "seen")
    assert line.startswith(f"{kind:<12} step 7: seen; ")
    assert line.endswith("(docs/choosing.md)")
    flags = set(re.findall(r"--\w+", ADVICE[kind]))
    assert flags <= set(re.findall(r"--\w+", rows()[kind]))


@pytest.mark.parametrize("name", sorted(OTHERS - {"over-trained"}))
def test_the_other_lines_are_printed_under_their_names(name):
    source = "\n".join(path.read_text() for path in (ROOT / "diffdpo").rglob("*.py"))
    assert f'"{name:<12} ' in source or f'"{name}": ' in source


def test_an_over_trained_run_says_so_in_this_word():
    worse = {ERROR: [0.1, 0.2], GAIN: [-0.1, 0.1]}
    worse |= {"since_best/error": 0.1, "since_best/accuracy": 0.0}
    lines = [{"step": 1, "eval_loss": 0.1}, {"step": 2, "eval_loss": 0.2, "best_step": 1, **worse}]
    (line,) = verdict(lines, "eval_loss")
    assert line.startswith("over-trained from step 2")
