"""Ctrl-C where no step of training is under way: a line that fits the moment, and exit code 130.

During training the two signals mean something else: see signals.py. Nothing heavy is imported here,
so that Ctrl-C is answered while heavy things are.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from diffdpo.engine.console import complain

INTERRUPTED = 130  # the shell's exit code of a program that was ended by Ctrl-C
PARENT = os.getppid()  # at the start: the launcher, where there is one
IMPORT_SYSTEM = "<frozen importlib._bootstrap>"


@dataclass
class Moment:
    """What this process is about."""

    # The checkpoints of the run that it trains; None before the first step.
    checkpoints: Callable[[], list[Path]] | None = None


moment = Moment()


@contextmanager
def answering(before: str, again: str) -> Iterator[None]:
    """A context in which Ctrl-C raises KeyboardInterrupt, or ends the process during an import.

    ``before`` is said of a command whose training did not begin, ``again`` is how to go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets no other thread set handlers
        return
    moment.checkpoints = None
    process = os.getpid()

    def answer(number: int, frame: FrameType | None) -> None:
        # An import that is interrupted may swallow the exception, or leave half a module behind
        # that fails in another place.
        if os.getpid() == process and is_importing(frame):
            complain(farewell(before, again))
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


def is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported where the program is."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORT_SYSTEM:
            return True
        frame = frame.f_back
    return False


def farewell(before: str, again: str) -> str:
    """The last line of an interrupted command: what it leaves, and how to go on."""
    if moment.checkpoints is None:
        return before
    checkpoints = moment.checkpoints()
    if not checkpoints:
        return "interrupted; no checkpoint was saved"
    return f"interrupted; {checkpoints[-1]} is whole, go on with {again}"


def launcher_is_gone() -> bool:
    """Whether the launcher of this run's processes has ended, and left them to themselves."""
    # Of launchers that start several, which would have ended them. A run that was started in a
    # shell is meant to outlive it.
    return "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != PARENT
