"""Starts a command and lets a signal fall at a moment that is told by what lies on the disk."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.kill_matrix.cells import KILL, Cell, environment
from tests.processes import Started

PATIENCE = 300  # seconds for a command to come to its moment, or to its end
IMPORTS = 0.7  # seconds after the start, in which libraries are being imported
Running = Any  # a Popen, or what has the same methods
SIGNALS = {KILL: signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}


def lines(folder: Path) -> int:
    """The number of steps that a run has logged."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def moment(name: str, folder: Path) -> Callable[[], bool]:
    """A function that tells whether the moment has come."""
    began, logged = time.monotonic(), lines(folder)
    tells: dict[str, Callable[[], bool]] = {
        "start": lambda: time.monotonic() - began > IMPORTS,
        "load": lambda: (folder / ".run.lock").exists(),
        # A resumed run first drops the lines after its checkpoint.
        "steps": lambda: lines(folder) not in (0, logged),
        "checkpoint": lambda: any(folder.glob(".checkpoint-*.tmp")),
        "export": lambda: any(folder.glob("..draft.*.tmp")),
        "table": lambda: any(folder.glob("*/.*.arrow.*.tmp")),
    }
    return tells[name]


class Forked(Started):
    """A fork of the server, with what of Popen a killing needs."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises TimeoutExpired."""
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("fork", timeout or 0.0)
        return self.returncode


def start(cell: Cell, folder: Path, log: Path) -> Running:
    """The command, in a session of its own; what it prints is added to ``log``."""
    if cell.is_forked:
        return Forked(cell.words(folder), files=[log, log], **environment())
    with log.open("ab") as file:
        return subprocess.Popen(
            cell.words(folder), env=environment(), stdout=file, stderr=file, start_new_session=True
        )


def strike(cell: Cell, folder: Path, log: Path, when: str, what: str) -> bool:
    """Run the command until its moment and send the signal; False where it ended before."""
    for lock in folder.glob(".run.lock"):
        lock.unlink()  # of the run that was killed before: the moment "load" waits for a new one
    process = start(cell, folder, log)
    has_come, deadline = moment(when, folder), time.monotonic() + PATIENCE
    while process.poll() is None and not has_come():
        if time.monotonic() > deadline:
            kill_tree(process)
            raise TimeoutError(f"{cell.name}: {when} did not come; see {log}")
        time.sleep(0.001)  # a draft lives for some milliseconds
    if process.poll() is not None:
        return False
    if what == KILL:
        kill_tree(process)  # as a loss of power: every process at once
    else:
        process.send_signal(SIGNALS[what])
    wait(process)
    return True


def finish(cell: Cell, folder: Path, log: Path) -> int:
    """Run the command to its end; returns its exit code."""
    return wait(start(cell, folder, log))


def wait(process: Running) -> int:
    """The exit code of a command, which is killed where it takes too long."""
    try:
        return process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        kill_tree(process)
        return process.wait()


def kill_tree(process: Running) -> None:
    """SIGKILL to a command and to all that it has started."""
    try:
        family = psutil.Process(process.pid)
        family = [family, *family.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:  # the launcher first: it would report, and start, nothing more
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=PATIENCE)
