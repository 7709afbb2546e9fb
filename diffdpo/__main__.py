"""The first module of every command, so that Ctrl-C is answered in a line from the start.

``python -m diffdpo COMMAND …`` runs it, and so does ``accelerate launch -m diffdpo``.

The command line itself is imported afterwards: that takes a while.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType


def main() -> int:
    """``diffdpo COMMAND [flags]``; returns the exit code."""
    begin()
    from diffdpo.cli import main as main_of

    return main_of(sys.argv[1:])


def run_command(name: str) -> int:
    """``NAME.py [flags]``; returns the exit code."""
    begin()
    from diffdpo.cli import run_command as run

    return run(name, sys.argv[1:])


def begin() -> None:
    """Make Ctrl-C and streams without a reader harmless."""
    signal.signal(signal.SIGINT, leave)
    from diffdpo.engine.output import outlive

    outlive()


def leave(number: int, frame: FrameType | None) -> None:
    """End the process, before anything was begun that would have to be ended in order."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted before anything began; nothing to save\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
