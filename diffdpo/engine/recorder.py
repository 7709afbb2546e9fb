"""The metrics of every step: collected on the device, written every ``logging_steps`` steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from diffdpo.engine.journal import Journal
from diffdpo.losses.means import Metrics, fraction, means_of

TOTALS = {"num_tokens"}  # metrics that add up over a run, as TRL's do
ON_THE_BAR = {"loss": "loss", "acc": "rewards/accuracies", "margin": "rewards/margins"}
ON_THE_BAR |= {"drift": "drift/winner"}
Judge = Callable[[dict[str, Any]], None]


class Recorder:
    """Writes metrics.jsonl and feeds the trackers."""

    def __init__(
        self,
        output_dir: Path,
        accelerator: Accelerator,
        effective_batch: int,
        judges: Sequence[Judge],
    ) -> None:
        self.accelerator, self.effective_batch = accelerator, effective_batch
        self.judges = judges  # look at every record before it is written, and may add to it
        self.journal = Journal(output_dir / "metrics.jsonl")
        self.totals: dict[str, int] = {}
        self.pending: list[tuple[int, float, Metrics]] = []
        self.clock = time.perf_counter()
        self.on_step: Judge | None = None  # gets every record once it is written

    def start_clock(self) -> None:
        """Measure pairs per second from now on."""
        self.clock = time.perf_counter()

    def bar(self, done: int, total: int) -> tqdm:
        """The progress bar, on the first process of each machine."""
        quiet = not self.accelerator.is_local_main_process
        return tqdm(total=total, initial=done, desc="training", unit="step", disable=quiet)

    def add(self, step: int, rate: float, metrics: Metrics) -> None:
        """Keep a step's metrics for the next ``flush``, still on the device."""
        self.pending.append((step, rate, metrics))

    def flush(self) -> dict[str, str]:
        """Write the collected metrics; returns those of the last step for the progress bar.

        Here training waits for the device; between two calls the host runs ahead of it.
        """
        if not self.pending:
            return {}
        records = self.records()
        self.pending.clear()
        for record in records:
            for judge in self.judges:
                judge(record)
        if self.accelerator.is_main_process:
            self.journal.append(records)
        for record in records:
            # Lists of rows are not for trackers.
            values = {k: v for k, v in record.items() if k != "step" and not isinstance(v, list)}
            self.accelerator.log(values, step=record["step"])
            if self.on_step:
                self.on_step(record)
        latest = records[-1]
        return {k: f"{latest[name]:.4g}" for k, name in ON_THE_BAR.items() if name in latest}

    def records(self) -> list[dict[str, float]]:
        """A record for each step: means over all processes, totals over the run."""
        names = list(self.pending[0][2])
        # (sum, count) pairs are averaged over processes and divided afterwards: a process with few
        # items of a kind would otherwise weigh as much as one with many. In one tensor, so that it
        # takes one exchange and one transfer from the device.
        sums = [torch.stack([fraction(m[name]) for name in names]) for _, _, m in self.pending]
        rows = self.accelerator.reduce(torch.stack(sums), reduction="mean").tolist()
        elapsed, self.clock = time.perf_counter() - self.clock, time.perf_counter()
        pace = len(self.pending) * self.effective_batch / elapsed
        records = [
            {"step": step, **means_of(names, row), "lr": rate, "pairs_per_second": pace}
            for (step, rate, _), row in zip(self.pending, rows, strict=True)
        ]
        for record in records:
            for name in TOTALS & set(record):
                self.totals[name] = self.totals.get(name, 0) + round(record[name])
                record[name] = self.totals[name]
        return records

    def keep_until(self, done: int) -> list[dict[str, Any]]:
        """Drop the records after step ``done``: a resumed run writes those steps again; returns
        those that are left."""
        if self.accelerator.is_main_process:
            self.journal.keep_until(done)
        self.accelerator.wait_for_everyone()  # before the others read the shortened file
        kept = self.journal.read() if done else []
        last = kept[-1] if kept else {}
        self.totals = {name: last[name] for name in TOTALS & set(last)}
        return kept
