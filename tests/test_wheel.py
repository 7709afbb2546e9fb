"""An installation from a wheel, outside the checkout, in an environment of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import ROOT

BUILT_FROM = ["diffdpo", "assets", "scripts", "pyproject.toml", "setup.py", "README.md", "LICENSE"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The bin folder of a virtual environment that has diffdpo from its wheel, and the other
    packages of this one."""
    base = tmp_path_factory.mktemp("wheel")
    source, environment = base / "source", base / "environment"
    source.mkdir()
    for name in BUILT_FROM:
        path = ROOT / name
        if path.is_dir():
            leave = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, source / name, ignore=leave)
        else:
            shutil.copy(path, source / name)
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(base), str(source)]
    run([sys.executable, "-m", "pip", *build], base)
    (wheel,) = base.glob("*.whl")
    # The pip of this environment installs into it: one of its own takes seconds to unpack.
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], base)
    into = ["--python", str(environment / "bin" / "python"), "install", "-q", "--no-deps"]
    run([sys.executable, "-m", "pip", *into, "--no-index", str(wheel)], base)
    (packages,) = environment.glob("lib/*/site-packages")
    # As a path file in it does not count, the checkout's own installation is not seen through this.
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return environment / "bin"


def run(words, folder, **environment):
    names = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env={**names, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_package_is_the_installed_one_and_brings_what_it_needs(installed, tmp_path):
    show = "import diffdpo, diffdpo.data.bundled as b; print(diffdpo.__file__)"
    show += "; print(b.bundled('assets/emoji-pairs')); print(diffdpo.__version__)"
    file, pairs, version = run([installed / "python", "-c", show], tmp_path).split()
    assert Path(file).is_relative_to(installed.parent)
    assert Path(pairs).is_relative_to(installed.parent)
    assert version[0].isdigit()
    package = Path(file).parent
    assert (package / "py.typed").exists()
    assert (package / "annotate" / "page" / "page.js").exists()
    assert not (package / "benchmark").exists()
    assert not list(package.rglob("test_*.py"))


@pytest.mark.parametrize(
    "way",
    ["diffdpo", *(pytest.param(way, marks=pytest.mark.slow) for way in ("module", "launcher"))],
)
def test_the_bundled_run_starts_from_anywhere(installed, tmp_path, way):
    python = str(installed / "python")
    launcher = [python, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    starts = {
        "diffdpo": [str(installed / "diffdpo")],
        "module": [python, "-m", "diffdpo"],
        "launcher": [*launcher, "-m", "diffdpo"],
    }
    words = ["--max_train_steps", "1", "--max_train_samples", "8", "--train_batch_size", "2"]
    words += ["--report_to", "none", "--output_dir", "run"]
    said = run([*starts[way], "train_diffusion_dpo", *words], tmp_path)
    assert "_bundled/assets/emoji-pipeline" in said
    assert (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_the_demo_shows_its_result(installed, tmp_path):
    said = run([installed / "diffdpo", "demo"], tmp_path, OMP_NUM_THREADS="2")
    assert "win rate" in said
    assert (tmp_path / "runs" / "demo" / "report.html").exists()
