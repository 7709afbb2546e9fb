"""The process of one subject: starts it, lets it run to its next stop, and reads its reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.benchmark.gate import Schedule
from scripts.benchmark.snapshots import Moments
from scripts.benchmark.subjects import Subject, with_folders

PATIENCE = 60.0  # seconds that a subject has to end by itself; a busy machine takes a dozen
LONGEST = 200  # letters of a failure's reason; its log has the rest
ROOT = Path(__file__).resolve().parents[2]  # of the checkout, for the worker's imports


class Failed(Exception):
    """A subject's program ended early; the message is its last line of output."""


class Contestant:
    """A subject in a process of its own, under ``threads`` threads; ``run`` names its folder and
    its log."""

    def __init__(
        self,
        subject: Subject,
        schedule: Schedule | Moments,
        threads: int,
        folder: Path,
        run: str,
    ) -> None:
        self.log = folder / "logs" / f"{run}.log"
        self.log.parent.mkdir(exist_ok=True)
        request = self.log.with_suffix(".json")
        conditions = {
            "watch": schedule.watch,
            "schedule": asdict(schedule),
            "threads": threads,
            "aside": subject.aside if schedule.has_asides else "",
        }
        content = asdict(with_folders(subject, folder, run)) | conditions
        request.write_text(json.dumps(content, indent=2))
        reading, writing = os.pipe()
        self.reports = os.fdopen(reading)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scripts.benchmark.worker", str(request), str(writing)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                cwd=folder,
                env=environment(threads, folder),
            )
        os.close(writing)

    def hear(self) -> dict[str, Any]:
        """The next report. Raises Failed for an error, or where the process has ended."""
        line = self.reports.readline()
        report = json.loads(line) if line else {"kind": "error", "line": ""}
        if report["kind"] == "error":
            raise Failed((report["line"] or self.last_words())[:LONGEST])
        return report

    def turn(self) -> dict[str, Any]:
        """Let it run to its next stop; returns its report. Raises Failed where it breaks off."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; hear() reads the reason
            self.process.stdin.write(b"go\n")
            self.process.stdin.flush()
        return self.hear()

    def last_words(self) -> str:
        """The last line of its log."""
        lines = [
            line.strip()
            for line in self.log.read_text(errors="replace").splitlines()
            if line.strip()
        ]
        return lines[-1] if lines else "it ended without output"

    def close(self) -> None:
        """End the process, so that it does not compete with the next turn."""
        end(self.process, PATIENCE)
        self.reports.close()


def end(process: subprocess.Popen[Any], patience: float) -> None:
    """Tell a process that nothing more comes; one that has not ended after ``patience`` seconds is
    killed."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended
        process.stdin.close()
    try:
        process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def environment(threads: int, folder: Path) -> dict[str, str]:
    """The same for every subject: the number of threads, no downloads, caches inside the folder."""
    count = str(threads)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "hub"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
    }
