"""The process of one subject, seen from the benchmark: start it, let it run to its next stop, hear
what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffdpo.benchmark.gate import Schedule
from diffdpo.benchmark.subjects import Subject, placed

PATIENCE = 5.0  # seconds that a subject has to end by itself
LONGEST = 200  # letters of a failure's reason; its log has the rest


class Failed(Exception):
    """A subject's program broke off; the message is its last line."""


class Contestant:
    """A subject in a process of its own, under ``threads`` threads; ``run`` names its folder and
    its log."""

    def __init__(
        self, subject: Subject, schedule: Schedule, threads: int, folder: Path, run: str
    ) -> None:
        self.log = folder / "logs" / f"{run}.log"
        self.log.parent.mkdir(exist_ok=True)
        asked = self.log.with_suffix(".json")
        measured = {
            "schedule": asdict(schedule),
            "threads": threads,
            "bare": subject.ours and schedule.repetitions > 0,
        }
        asked.write_text(json.dumps(asdict(placed(subject, folder, run)) | measured, indent=2))
        reading, writing = os.pipe()
        self.reports = os.fdopen(reading)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "diffdpo.benchmark.worker", str(asked), str(writing)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                env=environment(threads, folder),
            )
        os.close(writing)

    def hear(self) -> dict[str, Any]:
        """Its next report. Raises Failed where it has none to give."""
        line = self.reports.readline()
        report = json.loads(line) if line else {"kind": "error", "line": ""}
        if report["kind"] == "error":
            raise Failed((report["line"] or self.last_words())[:LONGEST])
        return report

    def turn(self) -> dict[str, Any]:
        """Let it run to its next stop; its report. Raises Failed where it does not get there."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # its last report says why
            self.process.stdin.write(b"go\n")
            self.process.stdin.flush()
        return self.hear()

    def last_words(self) -> str:
        """The last line that it printed."""
        lines = [
            line.strip()
            for line in self.log.read_text(errors="replace").splitlines()
            if line.strip()
        ]
        return lines[-1] if lines else "it ended without a word"

    def close(self) -> None:
        """Nobody waits for it any more: see it end, so that it does not disturb the next."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reports.close()


def environment(threads: int, folder: Path) -> dict[str, str]:
    """The same for every subject: as many threads, and nothing fetched from or left outside the
    folder."""
    count = str(threads)
    return {
        **os.environ,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "hub"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
    }
