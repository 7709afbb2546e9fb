"""Targets: bounds on the measured figures, and the figure that each of them bounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scripts.benchmark.results import Result, Spread, epoch_cost, quotient

Results = Mapping[str, Result]
# Programs that are loaded at once in a run whose ratios count: beside ten of them other people's
# float32 steps took 2.2 s instead of 1.4.
FEW = 4


@dataclass(frozen=True)
class Target:
    """A figure with a bound on it; ``measure`` gives None where a row that it needs is missing.
    ``names`` are these rows."""

    work: str
    against: str
    bound: float
    measure: Callable[[Results], Spread | None]
    at_most: bool = False
    digits: int = 1  # of the figure where it is shown
    names: tuple[str, ...] = ()

    @property
    def wanted(self) -> str:
        """The bound in words."""
        return f"at {'most' if self.at_most else 'least'} {self.bound:g}x"

    def met(self, measured: Spread) -> bool:
        """Whether both the median and the fastest repetitions keep the bound."""
        best = measured.median if measured.best is None else measured.best
        return self.keeps(measured.median) and self.keeps(best)

    def crowded(self, results: Results) -> bool:
        """Whether one of its rows took turns with more than a few others."""
        groups = [result.group for result in results.values()]
        return any(groups.count(results[n].group) > FEW for n in self.names if n in results)

    def keeps(self, value: float) -> bool:
        """Whether a figure keeps the bound."""
        return value <= self.bound if self.at_most else value >= self.bound


def faster(ours: str, than: str) -> Callable[[Results], Spread | None]:
    """How many times as long the other's step takes."""
    return lambda rows: (
        quotient(rows[than].wall, rows[ours].wall) if {ours, than} <= set(rows) else None
    )


def over_bare(name: str) -> Callable[[Results], Spread | None]:
    """Our step over the networks it has to run."""
    return lambda rows: quotient(rows[name].wall, rows[name].bare_wall) if name in rows else None


def memory(ours: str, other: str) -> Callable[[Results], Spread | None]:
    """Our peak memory over the other's."""

    def measure(rows: Results) -> Spread | None:
        if not {ours, other} <= set(rows) or not rows[other].peak or not rows[ours].peak:
            return None
        return quotient([rows[ours].peak], [rows[other].peak])

    return measure


def memory_saved(
    with_scores: str, without: str, network: float
) -> Callable[[Results], Spread | None]:
    """Peak memory saved, in networks of ``network`` MiB."""

    def measure(rows: Results) -> Spread | None:
        if (
            not {with_scores, without} <= set(rows)
            or not rows[with_scores].peak
            or not rows[without].peak
        ):
            return None
        return quotient([rows[without].peak - rows[with_scores].peak], [network])

    return measure


def first_epoch(precision: str, peer: str, steps: int) -> Callable[[Results], Spread | None]:
    """The peer's first epoch of all weights over the cheapest of ours, with nothing stored."""

    def measure(rows: Results) -> Spread | None:
        names = [f"full-{precision}-{variant}" for variant in ("uncached", "latents", "scores")]
        costs = [
            cost
            for name in names
            if name in rows and (cost := epoch_cost(rows[name], 1, steps)) is not None
        ]
        other = epoch_cost(rows[peer], 1, steps) if peer in rows else None
        return quotient([other], [min(costs)]) if other is not None and costs else None

    return measure


def targets(steps: int, network: float) -> list[Target]:
    """All of them, for epochs of ``steps`` steps and a UNet of ``network`` MiB in float32."""
    images = [*stored_targets(), *live_targets(steps, network)]
    return [*images, *text_targets(), *bare_targets()]


def stored_targets() -> list[Target]:
    """Against the older scripts, with everything stored."""
    rows = []
    for kind, peer, bounds in (
        ("lora", "diffusers", (2.3, 2.3, 3.3)),
        ("full", "salesforce", (2.0, 2.5, 3.0)),
    ):
        for ours, theirs, bound in zip(
            ("fp32", "bf16", "bf16"), ("fp32", "bf16", "fp32"), bounds, strict=True
        ):
            than = f"{kind}-{theirs}-{peer}"
            for variant, words in (
                ("scores", "everything stored"),
                ("compiled", "stored and compiled"),
            ):
                name = f"{kind}-{ours}-{variant}"
                rows.append(
                    Target(
                        f"{kind} {ours}, {words}",
                        f"{peer} {theirs}",
                        bound,
                        faster(name, than),
                        names=(name, than),
                    )
                )
    return rows


def live_targets(steps: int, network: float) -> list[Target]:
    """Against the older scripts, with nothing stored; and what stored scores save of memory."""
    rows = []
    for precision in ("fp32", "bf16"):
        than = f"full-{precision}-salesforce"
        work = f"full {precision}, first epoch, nothing stored"
        rows.append(
            Target(
                work,
                f"salesforce {precision}",
                1.2,
                first_epoch(precision, than, steps),
                names=(than,),
            )
        )
        saved = memory_saved(f"full-{precision}-scores", f"full-{precision}-latents", network)
        words = f"full {precision}, networks fewer in memory"
        names = (f"full-{precision}-scores", f"full-{precision}-latents")
        rows.append(Target(words, "live reference", 1.0, saved, digits=2, names=names))
    return rows


def text_targets() -> list[Target]:
    """Against TRL."""
    rows = []
    for precision, bound in (("fp32", 2.9), ("bf16", 4.0)):
        ours, theirs = f"text-{precision}-live", f"text-{precision}-trl"
        rows.append(
            Target(
                f"text {precision}, live reference",
                f"TRL {precision}",
                bound,
                faster(ours, theirs),
                names=(ours, theirs),
            )
        )
        peak = memory(ours, theirs)
        rows.append(
            Target(
                f"text {precision}, peak memory",
                f"TRL {precision}",
                0.6,
                peak,
                at_most=True,
                names=(ours, theirs),
            )
        )
    return rows


def bare_targets() -> list[Target]:
    """Against the networks alone, in the same process on the same draws; of language models their
    own logits under cross-entropy."""
    variants = {"lora": ("latents", "scores"), "full": ("latents", "scores"), "text": ("unshared",)}
    names = [f"{kind}-{p}-{v}" for kind in variants for p in ("fp32", "bf16")
             for v in variants[kind]]  # fmt: skip
    return [
        Target(name, "bare network", 1.05, over_bare(name), at_most=True, digits=2, names=(name,))
        for name in names
    ]
