"""What is printed: lines from the first process only, and the lines of an error."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from typing import TextIO

from diffdpo.errors import UserError


def rank() -> int:
    """The number of this process in its run; 0 where it is the only one."""
    # The launcher's variable, not accelerate's state: lines are printed before that is set up.
    return int(os.environ.get("RANK", "0"))


def say(*lines: str) -> None:
    """Print lines on stdout, from the first process only."""
    if rank() == 0:
        put(lines, sys.stdout)


def complain(*lines: str) -> None:
    """Print lines on stderr, from the first process only."""
    if rank() == 0:
        put(lines, sys.stderr)


def skipped(row: str) -> None:
    """Name a row that is left out, on stderr: every process names its own."""
    put([f"skipped      {row}"], sys.stderr)


def put(lines: Iterable[str], file: TextIO) -> None:
    """Print lines from this process, above its progress bars where some stand: a terminal would
    else show the first behind a bar, on its line."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    standing = getattr(tqdm, "_instances", None)  # there is no public way to ask
    for line in lines:
        if tqdm and standing:
            tqdm.write(line, file=file)
            file.flush()
        else:
            print(line, file=file, flush=True)


def fail(error: UserError, own: bool = False) -> int:
    """Print a line for each mistake on stderr; returns the exit code.

    ``own`` mistakes are those of this process alone, which no other tells.
    """
    if own and rank():
        put((f"error: process {rank()}: {mistake}" for mistake in error.mistakes), sys.stderr)
    complain(*(f"error: {mistake}" for mistake in error.mistakes))
    return 2


def start_lines(facts: dict[str, str]) -> None:
    """Print the facts of a run, one a line, before it starts."""
    say(*(f"{name:<12} {fact}" for name, fact in facts.items()))


def quiet_libraries_to_come() -> None:
    """Turn off progress bars and remarks of libraries that are not loaded yet.

    They would show one for every file they read or write. What the user has set stays.
    """
    # Through the environment, which they read while they are imported.
    for library in ("TRANSFORMERS", "DIFFUSERS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for library in ("HF_DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
    # Of kernels for other devices than this one, and of changes to come in PyTorch.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Turn off the progress bars of the libraries that are loaded already."""
    if datasets := sys.modules.get("datasets"):
        datasets.disable_progress_bars()
        # It writes what it raises as well; whoever catches that says it in one line.
        logging.getLogger("datasets").setLevel(logging.CRITICAL)
    # An argument that diffusers still hands over; the mistake in question is told in a line.
    warnings.filterwarnings("ignore", "The `local_dir_use_symlinks` argument is deprecated")
    for name in ("diffusers", "transformers"):
        if name in sys.modules:
            importlib.import_module(f"{name}.utils.logging").disable_progress_bar()
