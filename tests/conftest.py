"""Shared models, data and the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = os.environ["DIFFUSERS_VERBOSITY"] = "error"
sys.path.insert(0, str(Path(__file__).parent.parent))  # tests.factory, with importlib import mode

ROOT = Path(__file__).parent.parent
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Torch and diffusers are imported where they are used: this file is also read by the process that
# hands tests out, and the workers start behind it.


def pytest_addoption(parser: pytest.Parser) -> None:
    """The tests of a table's rows run on rows of one's own as well."""
    for kind in ("loss", "reward", "format"):
        help = f"a {kind} of your own, file.py:name, to test with those of the table"
        parser.addoption(f"--own-{kind}", action="append", default=[], help=help)


def pytest_configure(config: pytest.Config) -> None:
    """Put rows of one's own into the tables, before the tests are collected over them."""
    given = {kind: config.getoption(f"--own-{kind}") for kind in ("loss", "reward", "format")}
    if not any(given.values()):
        return
    from diffdpo import metrics
    from diffdpo.data import image_formats, text
    from diffdpo.extensions import load_object, named_row
    from diffdpo.losses import LOSSES, as_loss

    for name in given["loss"]:
        named_row(name, LOSSES, "own-loss", as_loss)
    for name in given["reward"]:
        named_row(name, metrics.REWARDS, "own-reward", metrics.as_reward)
    for name in given["format"]:
        if isinstance(load_object(name, "own-format"), text.TextFormat):
            named_row(name, text.TEXT_FORMATS, "own-format", text.as_format)
        else:
            named_row(name, image_formats.IMAGE_FORMATS, "own-format", image_formats.as_format)


# The tables into which commands put rows of one's own, by module.
TABLES = {"diffdpo.metrics": ("REWARDS", "TEXT_REWARDS"), "diffdpo.losses": ("LOSSES",)}
TABLES |= {"diffdpo.data.image_formats": ("IMAGE_FORMATS",), "diffdpo.data.text": ("TEXT_FORMATS",)}


@pytest.fixture(autouse=True)
def tables_as_they_were(request: pytest.FixtureRequest) -> Iterator[None]:
    """Takes rows of one's own that a test has used out of the tables again: tests of a whole table
    would meet them. Those that the options of pytest name stay."""
    yield
    kinds = ("loss", "reward", "format")
    kept = {name for kind in kinds for name in request.config.getoption(f"--own-{kind}")}
    for module, names in TABLES.items():
        for name in names if module in sys.modules else ():
            table = getattr(sys.modules[module], name)
            for row in [row for row in table if ".py:" in row and row not in kept]:
                del table[row]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``models(family, prediction_type)``: the folder of a small pipeline, made once a session."""
    from tests import factory

    made: dict[tuple[str, str], Path] = {}

    def get(family: str = "StableDiffusionPipeline", prediction_type: str = "epsilon") -> Path:
        key = (family, prediction_type)
        if key not in made:
            made[key] = factory.make_pipeline(tmp_path_factory.mktemp("model"), *key)
        return made[key]

    return get


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pairs and three ties in the Pick-a-Pic schema."""
    from tests import factory

    return factory.make_pairs(tmp_path_factory.mktemp("pairs"), count=15, ties=3)


@pytest.fixture(scope="session")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny language model."""
    from tests.text.factory import save_model  # here: not every test needs transformers

    return save_model(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Text files of every kind: plain pairs, conversations, labelled completions."""
    from tests.text.runs import write_data

    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """For evaluations whose numbers are looked at: the plots of a report take half their time."""
    from diffdpo.report.page import Report

    monkeypatch.setattr(Report, "plot", lambda self, draw, alt: None)


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """A command as a user types it, from the repository's root."""
    env = {**os.environ, **THREADS, **environment}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180)


def script(name: str, *flags: object) -> list[str]:
    """A script under the interpreter of the tests."""
    return [sys.executable, f"scripts/{name}.py", *map(str, flags)]


def accelerate(name: str, *flags: object) -> list[str]:
    """The same under the real launcher."""
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "1",
        "--num_machines",
        "1",
    ]
    plain = ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return [*launcher, *plain, f"scripts/{name}.py", *map(str, flags)]


def two_processes(name: str, *flags: object) -> list[str]:
    """The same in two processes on this machine."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            f"scripts/{name}.py", *map(str, flags)]  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The tests run on as many processes as there are cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps its state for the life of a process, and so does the processor's mode for
    numbers near zero; a user's process trains once, the tests' many times."""
    yield
    import torch
    from accelerate.state import AcceleratorState, GradientState

    torch.set_flush_denormal(False)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    torch.use_deterministic_algorithms(False)
