"""Lines beside a progress bar, as a terminal shows them."""

import io

import pytest
from tqdm.auto import tqdm

from diffdpo.engine.console import complain, say


def shown(text):
    """What stands on a terminal's screen: a carriage return writes over the line from its start."""
    screen = []
    for line in text.split("\n"):
        cells = []
        for part in line.split("\r"):
            cells[: len(part)] = part
        screen.append("".join(cells).rstrip())
    return screen


class Terminal(io.StringIO):
    """Both standard streams of a program end here."""

    def isatty(self):
        return True


@pytest.mark.parametrize("told", [say, complain])
def test_a_line_is_written_above_the_bar(told, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    with tqdm(total=3, desc="training", ncols=60, mininterval=0) as bar:
        bar.update()
        told("drift        so and so", "spike        at step 2")
        bar.update()
    told("finished")
    first, second, standing, last, _ = shown(terminal.getvalue())
    assert (first, second) == ("drift        so and so", "spike        at step 2")
    assert standing.startswith("training:  67%")
    assert last == "finished"


def test_processes_but_the_first_say_nothing(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    say("a line")
    complain("another")
    assert capsys.readouterr() == ("", "")
