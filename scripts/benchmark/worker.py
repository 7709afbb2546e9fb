"""One subject in a process of its own: ``python -m scripts.benchmark.worker SUBJECT.json REPORTS``.

REPORTS is the number of an open file; a line on the standard input is the permission to go on. What
the program prints goes to the log.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffdpo.engine.accelerator import tune_cpu
from scripts.benchmark.gate import Channel, Gate, Schedule, Stop
from scripts.benchmark.programs import PROGRAMS
from scripts.benchmark.snapshots import Moments, Snapshots


def main(argv: list[str]) -> int:
    """Load, wait, run up to the gate's last stop; returns the exit code."""
    request = json.loads(Path(argv[0]).read_text())
    channel = Channel(os.fdopen(int(argv[1]), "w"), sys.stdin)
    try:
        run(request, channel)
    except Stop:
        return 0
    except BaseException as error:
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        channel.tell("error", line=last_line(error))
        return 1
    channel.tell("error", line="the program ended before the measurement was over")
    return 1


def run(request: dict[str, Any], channel: Channel) -> None:
    """Run the program of one subject through the gate."""
    torch.set_num_threads(request["threads"])
    if not torch.cuda.is_available():
        tune_cpu()  # other people's programs too, so that none has it alone
    program = PROGRAMS[request["program"]](request["target"], request["flags"])
    aside = ASIDES[request["aside"]]()
    channel.tell("ready")
    channel.wait()
    with WATCHES[request["watch"]](request["schedule"], channel, aside):
        program()


def watch_network() -> Callable[[], dict[str, float]]:
    """A function that times the bare network between repetitions. It loads the engine, so it serves
    commands of this package only."""
    from scripts.benchmark.bare import BareNetwork

    bare = BareNetwork()
    bare.watch()
    return bare.measure


def watch_gaps() -> Callable[[], dict[str, float]]:
    """A function that tells the time of the steps since its last call that no network filled."""
    from scripts.benchmark.gaps import Gaps

    gaps = Gaps()
    gaps.watch()
    return gaps.measure


WATCHES: dict[str, Callable[..., Any]] = {
    "turns": lambda facts, channel, aside: Gate(Schedule(**facts), channel, aside),
    "snapshots": lambda facts, channel, _: Snapshots(Moments(**facts), channel),
}
ASIDES: dict[str, Callable[[], Callable[[], dict[str, float]]]] = {
    "": lambda: dict,
    "bare": watch_network,
    "gaps": watch_gaps,
}


def last_line(error: BaseException) -> str:
    """A failure in one line; empty where the program has printed its own message and exited."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, str) else ""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no reason'}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
