"""One subject in a process of its own: ``python -m diffdpo.benchmark.worker SUBJECT.json REPORTS``.

REPORTS is the number of an open file; permissions are lines on the standard input. The subject's
own output is whatever its program prints."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffdpo.benchmark.gate import Channel, Gate, Schedule, Stop
from diffdpo.benchmark.programs import PROGRAMS


def main(argv: list[str]) -> int:
    """Load, wait, run up to the gate's last stop; returns the exit code."""
    asked = json.loads(Path(argv[0]).read_text())
    channel = Channel(os.fdopen(int(argv[1]), "w"), sys.stdin)
    try:
        run(asked, channel)
    except Stop:
        return 0
    except BaseException as error:
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        channel.tell("error", line=last_line(error))
        return 1
    channel.tell("error", line="the program ended before the measurement was over")
    return 1


def run(asked: dict[str, Any], channel: Channel) -> None:
    """Run the program of one subject through the gate."""
    torch.set_num_threads(asked["threads"])
    program = PROGRAMS[asked["program"]](asked["target"], asked["flags"])
    aside = watch_network() if asked["bare"] else dict
    channel.tell("ready")
    channel.wait()
    with Gate(Schedule(**asked["schedule"]), channel, aside):
        program()


def watch_network() -> Callable[[], dict[str, float]]:
    """What times the bare network between repetitions; loads the engine, so for commands of this
    package only."""
    from diffdpo.benchmark.bare import BareNetwork

    bare = BareNetwork()
    bare.watch()
    return bare.measure


def last_line(error: BaseException) -> str:
    """What to say of a failure in one line; empty where the program has said it itself and left."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, str) else ""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no reason'}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
