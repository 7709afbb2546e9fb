"""The commands and Python lines that the pages show do what the pages say."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from diffdpo.cli import COMMANDS, settings_class
from diffdpo.commands.rounds import training_of
from diffdpo.commands.rounds_settings import RoundsSettings
from diffdpo.config import settings_of
from diffdpo.errors import UserError
from diffdpo.flags import StrictParser
from diffdpo.image.settings import ImageSettings
from diffdpo.losses import LOSSES
from tests.conftest import THREADS
from tests.docs.blocks import KINDS, PAGES, ROOT, Block, blocks_of, command_lines, name_of
from tests.docs.blocks import prose_and_blocks as split
from tests.processes import run_forked

CHECKED = [
    block
    for page in PAGES
    for block in blocks_of(page)
    # The ranking page has a test of its own, which runs its commands and compares what they print.
    if block.kind in ("sh check", "sh slow") and page.name != "ranking.md"
]
# Commands of the shell that prepare an installation or show a file.
PLAIN = {"git", "cd", "pip", "cat", "tail", "export"}
# Programs of the checkout that are no commands of the package: their own help names their flags.
OWN_PARSERS = ("scripts/benchmark", "scripts/growth.py", "scripts/gradient_noise.py")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_has_a_class(page):
    prose, blocks = split(page)
    unknown = [f"{block.where}: {block.info!r}" for block in blocks if block.kind not in KINDS]
    # An indented block would be a command that no test sees.
    words = r" {4,}(accelerate|python|make|diffdpo|pip|git|cat|tail) "
    indented = [f"line {number}: {line}" for number, line in prose if re.match(words, line)]
    assert not unknown + indented


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_quick_blocks_run(page, scratch, monkeypatch):
    """Without the seconds in which shells, launchers and interpreters start; those are slow."""
    monkeypatch.chdir(scratch)
    execute([block for block in blocks_of(page) if block.kind != "sh slow"], run_forks)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_all_blocks_run(page, scratch, monkeypatch):
    monkeypatch.chdir(scratch)
    execute(blocks_of(page), run_shell)


@pytest.mark.parametrize("block", CHECKED, ids=lambda block: block.where)
def test_commands_that_are_not_run_have_flags_that_exist(block):
    for line in command_lines(block):
        if block.kind == "sh check" or "scripts/" in line:
            check(shlex.split(re.sub(r"\$\w+", "1", line)))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_excerpts_stand_in_the_code(page):
    for block in blocks_of(page):
        if block.kind == "python excerpt":
            source = bare((ROOT / block.info.split()[2]).read_text())
            missing = [line for line in bare(block.text).splitlines() if line not in source]
            assert not missing, block.where


@pytest.fixture
def scratch(tmp_path):
    """A folder that looks like the repository, so that runs/ does not grow in the real one."""
    for path in ROOT.iterdir():
        if path.name not in ("runs", ".git", ".venv"):
            (tmp_path / path.name).symlink_to(path)
    rows = dict(LOSSES)
    yield tmp_path
    LOSSES.clear()  # a page may add a loss of its own
    LOSSES.update(rows)


def execute(blocks: list[Block], run_commands: Callable[[Block], str]) -> None:
    """Shell and Python blocks in their order; what one prints stands in the block behind it."""
    names: dict[str, object] = {"__name__": "page"}
    printed = ""
    for block in blocks:
        if block.kind in ("sh run", "sh slow"):
            printed = run_commands(block)
        elif block.kind == "python":
            printed = run_python(block, names)
        elif block.kind == "text output":
            assert printed == block.text, block.where


def run_forks(block: Block) -> str:
    """The block's scripts one after the other, if it is made of such alone; else under bash."""
    start = re.compile(r"(?:python|accelerate launch) (scripts/\w+\.py\b.*)")
    scripts = [start.fullmatch(line) for line in command_lines(block)]
    if not all(scripts) or re.search(r"[$|<>&;]", block.text):
        return run_shell(block)
    printed = ""
    for script in scripts:
        words = [sys.executable, *shlex.split(script[1])]
        done = run_forked(words, Path.cwd(), HOME=os.getcwd())
        assert done.returncode == 0, f"{block.where}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        printed += done.stdout
    return printed


def run_shell(block: Block) -> str:
    """The block under bash, with the programs of the tests' environment first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    places = {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": os.getcwd()}
    command = ["bash", "-euo", "pipefail", "-c", block.text]
    done = subprocess.run(command, env={**os.environ, **THREADS, **places}, capture_output=True,
                          text=True, timeout=3600)  # fmt: skip
    assert done.returncode == 0, f"{block.where}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def run_python(block: Block, names: dict[str, object]) -> str:
    """The block, after those before it on its page."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(block.text, block.where, "exec"), names)
    return shown.getvalue()


def check(words: list[str]) -> None:
    """Whether a command and its flags exist, as far as can be told without running it."""
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[:1] == ["python"] and words[1] in OWN_PARSERS:
        named = [word for word in words[2:3] if not word.startswith("-")]
        assert_in_help([words[1], *named], words[2:])
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[3:] if word.startswith("tests"))
    elif words[0] not in PLAIN:
        read_flags(*command_and_flags(words))


def assert_in_help(script: list[str], words: list[str]) -> None:
    """The flags are among those that the script's own help lists."""
    flags = {word.split("=")[0] for word in words if word.startswith("--")}
    shown = help_of(*script)
    assert not [flag for flag in flags if flag.replace("-", "_") not in shown]


@cache
def help_of(*script: str) -> str:
    """What a program says of itself, with underscores for hyphens."""
    done = run_forked([sys.executable, *script, "--help"])
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("-", "_")


def command_and_flags(words: list[str]) -> tuple[str, list[str]]:
    """The command of ``python scripts/X.py …``, the same under a launcher, or ``diffdpo X …``."""
    for index, word in enumerate(words):
        if word.startswith("scripts/") and word.endswith(".py"):
            assert (ROOT / word).exists(), word
            return Path(word).stem, words[index + 1 :]
    assert words[0] == "diffdpo", f"a command that the tests do not know: {' '.join(words)}"
    return words[1], words[2:]


def read_flags(name: str, words: list[str]) -> None:
    """Raises UserError for flags and values that the command does not read; models, data and runs
    are placeholders on the pages and are not looked for."""
    assert name in COMMANDS, name
    parser = StrictParser(settings_class(COMMANDS[name].settings, words))
    if mistakes := parser.read(words)[1]:
        raise UserError(*mistakes)


def bare(source: str) -> str:
    """Python lines without their comments and indentation."""
    lines = [line.split("  #")[0].strip() for line in source.splitlines()]
    return "\n".join(line for line in lines if line)


PLANS = [block for page in PAGES for block in blocks_of(page) if block.kind == "yaml rounds"]


@pytest.mark.parametrize("block", PLANS, ids=lambda block: block.where)
def test_plans_of_rounds_have_settings_that_exist(block, tmp_path):
    content = yaml.safe_load(block.text)
    for name in ("prompts", "eval_prompts"):
        (tmp_path / name).write_text("a cat\n")
        content[name] = str(tmp_path / name)
    plan = settings_of(RoundsSettings, **content)
    training_of(plan, 2)
    assert plan.section("train").keys() <= ImageSettings.__dataclass_fields__.keys()


def test_a_flag_that_does_not_exist_is_noticed():
    words = "python scripts/evaluate.py --policy runs/mine --number_of_prompts 3"
    with pytest.raises(UserError, match="unknown flag --number_of_prompts"):
        check(shlex.split(words))
    with pytest.raises(AssertionError, match="do not know"):
        check(["evaluate", "--policy", "runs/mine"])
