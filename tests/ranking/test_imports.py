"""What ranking loads: importing torch takes two seconds, a fit a tenth of one."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "diffusers", "transformers", "datasets", "accelerate"}
BY_COMMAND = """
import sys
from diffdpo.cli import main
assert main(["fit_bradley_terry", *sys.argv[1:]]) == 0
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
FROM_PYTHON = """
import sys
from pathlib import Path
from diffdpo.ranking import fit_bradley_terry
from diffdpo.ranking.report import table, write_json
path = Path(sys.argv[1])
ranking = fit_bradley_terry(path, ties="davidson", home=True, interval=sys.argv[2], prior_std=3.0,
                            bootstrap_samples=20)
print(table(ranking))
write_json(ranking, path.with_suffix(".json"))
ranking.probability("a", "b"), ranking.difference("a", "b")
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def modules_of(words):
    """The packages that a program loads, which prints them in its last line."""
    command = [sys.executable, "-c", *map(str, words)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(finished.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("interval", ["fisher", "sandwich", "bootstrap"])
def test_ranking_a_csv_loads_no_deep_learning_library(tmp_path, interval):
    path = tmp_path / "games.csv"
    path.write_text(
        "winner,loser,count,tie,first\na,b,9,0,a\nb,a,8,0,a\na,b,7,1,b\nb,a,9,0,b\na,b,8,0,b\n"
    )
    flags = ["--comparisons", path, "--output", path.with_suffix(".json"), "--interval", interval]
    flags += ["--ties", "davidson", "--home", "--bootstrap_samples", "20", "--prior_std", "3"]
    for words in ([BY_COMMAND, *flags], [FROM_PYTHON, path, interval]):
        loaded = modules_of(words)
        assert "numpy" in loaded
        assert not loaded & HEAVY
        path.with_suffix(".json").unlink()  # it was written


def test_the_module_is_there_when_it_is_asked_for():
    import diffdpo.ranking

    assert diffdpo.ranking.BradleyTerry(3).strength.shape == (3,)
    with pytest.raises(AttributeError, match="no attribute 'Elo'"):
        diffdpo.ranking.Elo  # noqa: B018
