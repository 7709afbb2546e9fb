"""Words to the user: lines from the first process only, and the line of an error."""

from __future__ import annotations

import importlib
import os
import sys

from diffdpo.errors import UserError


def say(*lines: str) -> None:
    """Lines to the user, from the first process only."""
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(line, flush=True)


def complain(*lines: str) -> None:
    """Lines on stderr, from the first process only."""
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(line, file=sys.stderr, flush=True)


def fail(error: UserError) -> int:
    """A line per mistake on stderr; returns the exit code."""
    complain(*(f"error: {mistake}" for mistake in error.mistakes))
    return 2


def start_lines(facts: dict[str, str]) -> None:
    """What will happen, a line a fact."""
    say(*(f"{name:<12} {fact}" for name, fact in facts.items()))


def quiet_libraries_to_come() -> None:
    """Only our own progress bars and remarks: those of the libraries flash by for every file they
    read or write. Set before the libraries load."""
    for library in ("TRANSFORMERS", "DIFFUSERS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    for library in ("HF_DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")


def quiet_libraries() -> None:
    """The same for the libraries that are loaded."""
    if datasets := sys.modules.get("datasets"):
        datasets.disable_progress_bars()
    for name in ("diffusers", "transformers"):
        if name in sys.modules:
            logging = importlib.import_module(f"{name}.utils.logging")
            logging.disable_progress_bar()
