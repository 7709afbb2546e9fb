"""Processes that carry out runs, several at once. Each loads its libraries once, and does one run
after another."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.benchmark.contestant import LONGEST, ROOT, Failed, end, environment
from scripts.benchmark.losses.plan import Conditions

WORKER = "scripts.benchmark.losses.worker"
PATIENCE = 20.0  # seconds that a process has to end by itself
Request = dict[str, Any]


class Worker:
    """One process, with a log of its own."""

    def __init__(self, conditions: Conditions, number: int, threads: int) -> None:
        folder = Path(conditions.work)
        self.log = folder / "logs" / f"worker-{number}.log"
        self.log.parent.mkdir(exist_ok=True)
        reading, writing = os.pipe()
        self.answers = os.fdopen(reading)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", WORKER, json.dumps(asdict(conditions)), str(writing)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                cwd=ROOT,
                env=environment(threads, folder),
                text=True,
                start_new_session=True,  # Ctrl-C is for the command, which ends the process
            )
        os.close(writing)
        self.ended = False

    def ask(self, request: Request) -> Request:
        """The answer. Raises Failed where the run fails, or the process has ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.answers.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            self.ended = True
            raise Failed(f"its process has ended; see {self.log}")
        answer: Request = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"][:LONGEST] or f"see {self.log}")
        return answer

    def close(self, patiently: bool) -> None:
        """End the process; ``patiently`` where it is idle."""
        if not patiently:
            self.process.kill()
        end(self.process, PATIENCE)
        self.answers.close()


class Crew:
    """``size`` processes under ``threads`` threads each, that share runs. In a ``with`` block; an
    exception in it ends them at once."""

    def __init__(self, conditions: Conditions, size: int, threads: int) -> None:
        self.conditions, self.threads = conditions, threads
        self.free: queue.Queue[Worker] = queue.Queue()
        self.workers = [Worker(conditions, number, threads) for number in range(size)]
        for worker in self.workers:
            self.free.put(worker)
        self.over = False

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for worker in self.workers:
            worker.close(patiently=kind is None)

    def answers(
        self, requests: Sequence[Request], until: float = float("inf")
    ) -> Iterable[tuple[int, Request | Failed | None]]:
        """The number of every request with its answer, or its failure, as they come in; None for
        one that was not begun before ``until``, in seconds of ``time.monotonic``."""
        with ThreadPoolExecutor(len(self.workers)) as pool:
            try:
                yield from self.collect(pool, requests, until)
            except BaseException:
                self.over = True  # what waits is not begun any more
                for worker in self.workers:
                    worker.process.kill()
                raise

    def collect(
        self, pool: ThreadPoolExecutor, requests: Sequence[Request], until: float
    ) -> Iterator[tuple[int, Request | Failed | None]]:
        """See ``answers``."""
        waiting = {pool.submit(self.ask, one, until): at for at, one in enumerate(requests)}
        for future in as_completed(waiting):
            try:
                yield waiting[future], future.result()
            except Failed as failure:
                yield waiting[future], failure

    def ask(self, request: Request, until: float) -> Request | None:
        """The answer of a process that is free; None where it is too late to begin."""
        if self.over or time.monotonic() >= until:
            return None
        worker = self.free.get()
        try:
            return worker.ask(request)
        finally:
            if worker.ended and not self.over:
                number = self.workers.index(worker)
                worker.close(patiently=False)
                worker = self.workers[number] = Worker(self.conditions, number, self.threads)
            self.free.put(worker)
