"""Changes the code in one point at a time and runs the nearest tests on it; a change that they do
not notice survives.

    python scripts/mutants --modules draws losses/pairs --max 40

Works on a copy of the checkout. Every result is a line of the log, so a run that was interrupted
goes on where it stopped. ``--again`` repeats what has survived, for use after new tests.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from scripts.mutants.mutations import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "build", "*.egg-info", "__pycache__")
OF_LOSSES = ["test_losses.py", "test_published_losses.py"]
# The tests of a module, the nearest first; the first failure ends a run.
TESTS = {
    "losses/__init__": OF_LOSSES,
    "losses/pairs": OF_LOSSES,
    "losses/reference_free": OF_LOSSES,
    "losses/items": OF_LOSSES,
    "losses/transforms": ["test_transforms.py", *OF_LOSSES],
    "losses/safeguard": ["test_safeguard.py"],
    "objective/terms": [
        "test_objective.py",
        "engine/test_step_context.py",
        "image/test_task.py",
        "text/test_against_trl.py",
    ],
    "objective/making": ["test_objective.py", "test_transforms.py"],
    "draws": ["test_draws.py", "engine/test_batches.py", "image/test_task.py"],
    "engine/batches": ["engine/test_batches.py", "text/test_order.py"],
    "engine/optim": ["engine/test_optim.py"],
    "engine/trainer": ["engine", "text/test_runs.py", "text/test_twenty_steps.py"],
    "image/task": ["image/test_task.py", "image/test_latent_cache.py"],
    "text/task": ["text/test_task.py", "text/test_against_trl.py"],
    "cache/keys": ["cache", "image/test_latent_cache.py"],
}
# Loaded once, before the runs fork from this process; diffdpo and its tests are loaded in the fork.
LIBRARIES = ["pytest", "torch", "datasets", "transformers", "diffusers", "accelerate", "peft"]
CLASSES = {
    "diffusers": ["StableDiffusionPipeline", "StableDiffusionXLPipeline", "DDIMScheduler"],
    "transformers": ["LlamaForCausalLM", "CLIPTextModelWithProjection", "AutoTokenizer"],
}


def main(argv: list[str]) -> int:
    """Run the chosen mutants and print the tally; returns 0 whatever has survived."""
    options = parse(argv)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    mutants = [m for name in options.modules for m in mutants_of(ROOT, f"diffdpo/{name}.py")]
    if options.max is not None and options.max < len(mutants):
        mutants = random.Random(options.seed).sample(mutants, options.max)
    results = read_log(options.log)
    finished = {"killed", "timeout"} if options.again else {"killed", "timeout", "survived"}
    todo = [mutant for mutant in mutants if results.get(key(mutant)) not in finished]
    if todo:
        with tempfile.TemporaryDirectory() as folder:
            run_all(todo, Path(folder) / "tree", options.log)
    report(mutants, read_log(options.log))
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--modules", nargs="+", choices=TESTS, default=list(TESTS))
    parser.add_argument("--max", type=int, help="so many mutants at most, picked by the seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="run once more what has survived")
    parser.add_argument("--log", type=Path, default=ROOT / "runs" / "mutants.jsonl")
    return parser.parse_args(argv)


def key(mutant: Mutant) -> str:
    """A hash of the mutated source; it changes with the module as well as with the mutation."""
    return hashlib.sha256(f"{mutant.path}\n{mutant.source}".encode()).hexdigest()[:16]


def read_log(log: Path) -> dict[str, str]:
    """The latest outcome of every mutant that was run: killed, survived or timeout."""
    lines = log.read_text().splitlines() if log.exists() else []
    return {row["key"]: row["outcome"] for row in map(json.loads, lines)}


def run_all(mutants: list[Mutant], tree: Path, log: Path) -> None:
    """Run the mutants in a copy of the checkout, one after the other; a line of the log each."""
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT, symlinks=True)
    # transformers and diffusers load a class when it is first read, so naming it loads it here.
    for name in LIBRARIES:
        library = importlib.import_module(name)
        for kind in CLASSES.get(name, ()):
            getattr(library, kind)
    log.parent.mkdir(parents=True, exist_ok=True)
    limits: dict[str, float] = {}
    for number, mutant in enumerate(mutants, start=1):
        tests = TESTS[mutant.path.removeprefix("diffdpo/").removesuffix(".py")]
        if mutant.path not in limits:
            limits[mutant.path] = limit(tree, tests)
        original = (tree / mutant.path).read_text()
        (tree / mutant.path).write_text(mutant.source)
        outcome = run(tree, tests, limits[mutant.path])
        (tree / mutant.path).write_text(original)
        with log.open("a") as file:
            row = {
                "key": key(mutant),
                "outcome": outcome,
                "where": mutant.location,
                **mutant.change,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(f"{number}/{len(mutants)} {outcome:<9} {mutant}", flush=True)


def limit(tree: Path, tests: list[str]) -> float:
    """The seconds that the tests may take on a mutant; exits where they fail without any change."""
    start = time.perf_counter()
    if run(tree, tests, 1800.0) != "survived":
        sys.exit(f"tests fail without any change: {' '.join(tests)}")
    # A mutant may be slower on a loaded machine; one that loops for ever is a timeout.
    return 30.0 + 5 * (time.perf_counter() - start)


def run(tree: Path, tests: list[str], seconds: float) -> str:
    """Run the tests in a process of their own; returns killed, survived or timeout."""
    # Forked, so that the libraries need not be loaded again for every mutant.
    process = multiprocessing.get_context("fork").Process(target=work, args=(tree, tests))
    process.start()
    process.join(seconds)
    if process.is_alive():
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return "timeout"
    if process.exitcode not in (0, 1, 2):  # tests passed, failed, or could not be imported
        sys.exit(f"pytest ended with {process.exitcode}; see {tree.parent / 'output'}")
    return "killed" if process.exitcode else "survived"


def work(tree: Path, tests: list[str]) -> None:
    """The forked process: runs pytest on the copy and exits with its code."""
    import pytest

    os.setsid()  # so that a timeout ends what the tests have started as well
    output = os.open(tree.parent / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    # What was imported before the fork comes from the checkout, not from the copy.
    for name in [name for name in sys.modules if name.split(".")[0] in ("diffdpo", "scripts")]:
        del sys.modules[name]
    sys.path[:] = [str(tree), *(entry for entry in sys.path if Path(entry).resolve() != ROOT)]
    os.environ["PYTHONPATH"] = str(tree)
    diffdpo = importlib.import_module("diffdpo")
    assert Path(str(diffdpo.__file__)).is_relative_to(tree), "the tests would see another diffdpo"
    plain = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={tree.parent / 'tmp'}"]
    sys.exit(int(pytest.main([*plain, *(f"tests/{name}" for name in tests)])))


def report(mutants: list[Mutant], results: dict[str, str]) -> None:
    """Print a tally by module, and the survivors."""
    for path in dict.fromkeys(mutant.path for mutant in mutants):
        outcomes = Counter(results.get(key(m), "not run") for m in mutants if m.path == path)
        print(f"{path:<28} {', '.join(f'{count} {name}' for name, count in outcomes.items())}")
    for mutant in mutants:
        if results.get(key(mutant)) == "survived":
            print(f"survived  {mutant}")
