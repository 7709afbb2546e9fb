"""docs/ranking.md as its reader follows it: every command is run, every output compared."""

import os
import re
import subprocess
import sys

from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "ranking.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = """#!{python}
import sys
from diffdpo.cli import main
sys.exit(main())
"""


def blocks():
    """Each piece of code with its language and the output printed below it, if there is one."""
    pieces = BLOCK.findall(PAGE)
    for k, (language, code) in enumerate(pieces):
        if language != "text":
            following = pieces[k + 1] if k + 1 < len(pieces) else ("", "")
            yield language, code, following[1] if following[0] == "text" else None


def test_every_command_of_the_page_prints_what_the_page_says(tmp_path):
    program = tmp_path / "bin" / "diffdpo"
    program.parent.mkdir()
    program.write_text(COMMAND.format(python=sys.executable))
    program.chmod(0o755)
    search = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": search, "PYTHONPATH": str(ROOT)}
    compared = 0
    for language, code, expected in blocks():
        command = ["bash", "-ec", code] if language == "bash" else [sys.executable, "-c", code]
        finished = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        fails = expected is not None and expected.startswith("error: ")
        assert finished.returncode == (2 if fails else 0), finished.stderr
        if expected is not None:
            assert finished.stdout + finished.stderr == expected
            compared += 1
    assert compared == 4
    assert (tmp_path / "ranking.json").is_file()
    assert (tmp_path / "ranking.png").is_file()


def test_the_page_names_every_flag_that_changes_the_numbers():
    for flag in ("ties", "home", "interval", "prior_std", "winner_column", "output", "plot"):
        assert f"--{flag}" in PAGE
