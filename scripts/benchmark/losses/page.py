"""The tables of losses as Markdown, and their picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffdpo.metrics.intervals import Estimate
from diffdpo.report.plots import as_png, figure
from scripts.benchmark.losses.figures import (
    Key,
    Row,
    Runs,
    beside,
    by_loss,
    estimate,
)
from scripts.benchmark.losses.plan import BASELINE, COIN
from scripts.benchmark.tables import table

WHAT = {
    "win rate": "pictures that beat the base model's, by the style judge",
    "implicit accuracy": "held-out pairs whose chosen picture the policy prefers; behind the bar"
    " what difficulty alone comes to",
    "winner's error": "rise of the error on held-out chosen pictures, over the base model's",
    "diversity": "change of the difference between pictures of a caption, over the base model's",
}
SIGNED = {"winner's error", "diversity"}


def markdown(rows: Iterable[Row]) -> str:
    """All tables: a model and a figure each."""
    found = by_loss(rows)
    models = list(dict.fromkeys(model for model, _, _ in found))
    return "\n\n".join(section(found, model) for model in models)


def section(found: Mapping[Key, Runs], model: str) -> str:
    """The tables of a model."""
    own = {key: runs for key, runs in found.items() if key[0] == model}
    shares = sorted({share for _, share, _ in own})
    losses = ranked(own, model, shares)
    parts = [f"### {model}", seeds_line(own, shares)]
    for name, what in WHAT.items():
        lines = [
            [f"`{loss}`", *(cell(own, (model, share, loss), name) for share in shares)]
            for loss in losses
        ]
        parts += [f"**{name.capitalize()}**: {what}.", table(["loss", *map(head, shares)], lines)]
    return "\n\n".join(parts)


def head(share: float) -> str:
    """The name of a column."""
    return "coin tosses" if share == COIN else f"{share:.0%} flipped"


def seeds_line(own: Mapping[Key, Runs], shares: Sequence[float]) -> str:
    """How many seeds the figures of each column have."""
    counts = {share: [len(runs) for key, runs in own.items() if key[1] == share]
              for share in shares}  # fmt: skip
    spans = [f"{head(share)} {span(min(many), max(many))}" for share, many in counts.items()]
    return f"Seeds: {', '.join(spans)}."


def span(low: int, high: int) -> str:
    """'5', or '4 to 5'."""
    return str(low) if low == high else f"{low} to {high}"


def ranked(own: Mapping[Key, Runs], model: str, shares: Sequence[float]) -> list[str]:
    """The losses by their win rate at the smallest share of flipped labels, the best first; those
    without runs there are the last."""
    names = list(dict.fromkeys(loss for _, _, loss in own))

    def rate(loss: str) -> float:
        runs = own.get((model, shares[0], loss))
        return estimate(runs, "win rate").value if runs else -1.0

    return sorted(names, key=lambda loss: -rate(loss))


def cell(own: Mapping[Key, Runs], key: Key, name: str) -> str:
    """A figure with its interval, marked where it differs from the baseline's; the implicit
    accuracy with its control."""
    runs = own.get(key)
    if not runs:
        return "–"
    shown = percent(estimate(runs, name), name in SIGNED)
    if name == "implicit accuracy":
        shown += f" / {100 * estimate(runs, 'by difficulty').value:.0f}"
    others = own.get((key[0], key[1], BASELINE))
    gap = beside(runs, others, name) if others and key[2] != BASELINE else None
    return shown + mark(gap)


def percent(found: Estimate, signed: bool) -> str:
    """'87.1 [84.0, 90.2]', in per cent; of one seed without an interval."""
    sign = "+" if signed else ""
    low, high = found.interval
    if not math.isfinite(low):
        return f"{100 * found.value:{sign}.1f}"
    if not signed:  # a share, which Student's t does not know
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{100 * found.value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def mark(gap: Estimate | None) -> str:
    """An arrow where the interval of a difference leaves 0 out."""
    if gap is None or gap.interval[0] <= 0 <= gap.interval[1]:
        return ""
    return " ↑" if gap.value > 0 else " ↓"


def chart(rows: Iterable[Row]) -> bytes:
    """Win rate over the rise of the winner's error, a panel for each model and share: a point for
    each loss, with intervals over seeds. As PNG."""
    found = by_loss(rows)
    models = list(dict.fromkeys(model for model, _, _ in found)) or [""]
    shares = sorted({share for _, share, _ in found}) or [0.0]
    page, axes = figure(len(models), len(shares), 1 + 4.2 * len(shares), 1 + 3.6 * len(models))
    colours = {loss: f"C{place % 10}" for place, loss in enumerate(
        dict.fromkeys(loss for _, _, loss in found))}  # fmt: skip
    for line, model in zip(axes, models, strict=True):
        for axis, share in zip(line, shares, strict=True):
            own = {key[2]: runs for key, runs in found.items() if key[:2] == (model, share)}
            for loss, runs in own.items():
                draw(axis, loss, runs, colours[loss])
            frame(axis, own)
            axis.set_title(f"{model}, {head(share)}", fontsize=9)
            axis.axhline(50, color="grey", linewidth=0.5, linestyle="--")
            axis.set_xlabel("rise of the winner's error, %", fontsize=8)
            axis.set_ylabel("win rate, %", fontsize=8)
            axis.tick_params(labelsize=8)
    return as_png(page)


def frame(axis: Any, own: Mapping[str, Runs]) -> None:
    """Limits by the points: intervals of few seeds reach far beyond what a share can be."""
    for name, limits in (("winner's error", axis.set_xlim), ("win rate", axis.set_ylim)):
        values = [100 * estimate(runs, name).value for runs in own.values()]
        if values:
            room = 2 + 0.15 * (max(values) - min(values))
            limits(min(values) - room, max(values) + room)


def draw(axis: Any, loss: str, runs: Runs, colour: str) -> None:
    """The point of one loss, with its name beside it."""
    x, y = (estimate(runs, name) for name in ("winner's error", "win rate"))
    axis.errorbar(
        100 * x.value, 100 * y.value, xerr=reach(x), yerr=reach(y), fmt="o", markersize=3,
        linewidth=0.6, color=colour,
    )  # fmt: skip
    axis.annotate(loss, (100 * x.value, 100 * y.value), (3, 2), textcoords="offset points",
                  fontsize=6, color=colour)  # fmt: skip


def reach(found: Estimate) -> list[list[float]] | None:
    """How far an interval reaches to either side, in per cent; None without one."""
    low, high = found.interval
    if not math.isfinite(low):
        return None
    return [[100 * (found.value - low)], [100 * (high - found.value)]]
