"""Pairs of rows that do the same work: ours with nothing stored, beside another program.

What storing saves is another question; ``targets`` has those rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scripts.benchmark.results import Result, Spread, quotient, spread


@dataclass(frozen=True)
class Comparison:
    """Our row and the other program's. Both compute every encoding and every reference score in
    the step, and each completion with a prompt of its own."""

    work: str
    ours: str
    theirs: str

    def figures(self, rows: Mapping[str, Result]) -> Figures | None:
        """None where one of the two was not measured."""
        if not all(name in rows and rows[name].wall for name in (self.ours, self.theirs)):
            return None
        return Figures(rows[self.ours], rows[self.theirs])


@dataclass(frozen=True)
class Figures:
    """Wall and CPU seconds of a step, theirs over ours within a repetition."""

    ours: Result
    theirs: Result

    @property
    def wall(self) -> Spread | None:
        """How many times as long the other's step takes."""
        return quotient(self.theirs.wall, self.ours.wall)

    @property
    def cpu(self) -> Spread | None:
        """How many times as much CPU time the other's step takes."""
        return quotient(self.theirs.cpu, self.ours.cpu)

    @property
    def cores(self) -> tuple[Spread | None, Spread | None]:
        """Cores in use, ours and theirs: CPU seconds over wall seconds."""
        ours, theirs = (
            spread([cpu / wall for cpu, wall in zip(row.cpu, row.wall, strict=True)])
            for row in (self.ours, self.theirs)
        )
        return ours, theirs


COMPARISONS = [
    Comparison(f"{kind} {precision}", f"{kind}-{precision}-{ours}", f"{kind}-{precision}-{theirs}")
    for kind, ours, theirs in (
        ("lora", "uncached", "diffusers"),
        ("full", "uncached", "salesforce"),
        ("text", "unshared", "trl"),
    )
    for precision in ("fp32", "bf16")
]
