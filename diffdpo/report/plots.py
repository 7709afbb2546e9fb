"""Plots for the report; matplotlib is an optional extra."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffdpo.errors import EXTRAS, UserError

CURVES = {
    "loss": ["loss"],
    "implicit accuracy": ["rewards/accuracies"],
    "reward": ["rewards/chosen", "rewards/rejected", "rewards/margins"],
    "squared error": [
        f"error/{who}_{side}" for who in ("policy", "reference") for side in ("chosen", "rejected")
    ],
    "winner drift": ["drift/winner"],
    "gradient norm": ["grad_norm"],
    "learning rate": ["lr"],
}  # fmt: skip
# Not noisy, or a mean over a window already: a running mean would only lag behind it.
EXACT = ["winner drift", "learning rate"]
SMOOTH = 0.9  # weight of the past in the running mean
Curve = tuple[list[int], list[float]]  # steps and values


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A matplotlib figure without a window. Raises UserError where matplotlib is not installed."""
    try:
        # Not pyplot, which keeps figures in a global list and may look for a screen.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(EXTRAS["matplotlib"]) from error
    page = Figure(figsize=(width, height), layout="constrained")
    return page, page.subplots(rows, columns, squeeze=False)


def as_png(page: Any) -> bytes:
    """The figure as a PNG."""
    buffer = io.BytesIO()
    page.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def training_curves(
    records: Sequence[Mapping[str, Any]], over: int | None = None, share: float | None = None
) -> bytes:
    """A PNG with one panel a quantity: single steps as thin lines, running means as thick ones.

    A record may lack a quantity, or have none that is finite; the line goes straight on there.
    ``over`` is the step from which on the run is over-trained, ``share`` the drift that is told.
    """
    panels = panels_of(records, CURVES)
    page, axes = three_abreast(len(panels))
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        for name, (steps, values) in curves.items():
            label = called(name)
            if title in EXACT:
                axis.plot(steps, values, linewidth=1.6, label=label)
                continue
            (line,) = axis.plot(steps, values, linewidth=0.6, alpha=0.35)
            axis.plot(steps, smoothed(values), linewidth=1.6, color=line.get_color(), label=label)
        if title == "winner drift":
            with_bounds(axis, records, share)
        finish(axis, title, curves, over)
    return as_png(page)


def panels_of(
    records: Sequence[Mapping[str, Any]], titles: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Curve]]:
    """The curves of each panel, by title and quantity. A run has the metrics of its own modality
    and loss; panels of others are left out."""
    return {
        title: curves
        for title, names in titles.items()
        if (curves := {name: curve for name in names if len((curve := points(records, name))[0])})
    }


def three_abreast(count: int) -> tuple[Any, Any]:
    """A figure with axes for so many panels, in rows of three."""
    rows = max(1, -(-count // 3))
    page, axes = figure(rows, 3, 12, 2.9 * rows)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return page, axes.flat


def called(name: str) -> str:
    """A quantity's name in a legend."""
    return name.split("/")[-1].replace("_", " ")


def with_bounds(axis: Any, records: Sequence[Mapping[str, Any]], share: float | None) -> None:
    """Add the 95 % interval of winner drift, a line at none and one at the ``share`` from which on
    it is told."""
    (low_at, low), (high_at, high) = (points(records, f"drift/winner_{end}") for end in ENDS)
    if low_at == high_at:
        axis.fill_between(low_at, low, high, alpha=0.2)
    axis.axhline(0, color="grey", linewidth=0.8)
    if share is not None:
        label = f"told above {share:.0%}"
        axis.axhline(share, color="grey", linewidth=0.8, linestyle="--", label=label)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


ENDS = ("low", "high")  # of an interval
WINNER = "held-out squared error of the chosen"
HELD_OUT = {
    "held-out loss": ["eval_loss"],
    "held-out implicit accuracy": [
        "eval_rewards/accuracies",
        "eval_rewards/accuracies_by_difficulty",
    ],
    WINNER: ["eval_error/policy_chosen", "eval_error/reference_chosen"],
}
BAND = {"eval_rewards/accuracies": "eval_accuracy_interval"}  # the interval of a figure


def held_out_curves(lines: Sequence[Mapping[str, Any]], over: int | None = None) -> bytes:
    """A PNG of what was measured on held-out rows, with the 95 % interval of the accuracy; ``over``
    is the step from which on the run is over-trained."""
    panels = panels_of(lines, HELD_OUT)
    page, axes = figure(1, max(1, len(panels)), 4 * max(1, len(panels)), 2.9)
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        for name, (steps, values) in curves.items():
            axis.plot(steps, values, marker="o", markersize=3, linewidth=1.4, label=called(name))
            bands = [line.get(BAND.get(name, "")) for line in lines if line["step"] in steps]
            if all(bands) and len(bands) == len(steps):
                low, high = zip(*bands, strict=True)
                axis.fill_between(steps, low, high, alpha=0.15)
        finish(axis, title, curves, over)
    return as_png(page)


def overlaid_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
    """A PNG with one panel a quantity and one line a run: running means of its records, but for
    what is not noisy."""
    names = [name for names in CURVES.values() for name in names]
    found = {
        name: {label: points(records, name) for label, records in runs.items()} for name in names
    }
    kept = {name: lines for name, lines in found.items() if any(x for x, _ in lines.values())}
    page, axes = three_abreast(len(kept))
    exact = {name for title in EXACT for name in CURVES[title]}
    for axis, (name, lines) in zip(axes, kept.items(), strict=False):
        for label, (steps, values) in lines.items():
            drawn = values if name in exact else smoothed(values)
            axis.plot(steps, drawn, linewidth=1.4, label=label.replace("$", r"\$"))
        over_steps(axis, name)
        axis.legend(fontsize=7)
    return as_png(page)


TOLD = ("winner drift", WINNER)  # the panels that say what is shaded in all


def over_steps(axis: Any, title: str) -> None:
    """Add the title of a panel, and the ticks of steps below it."""
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step", fontsize=8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.tick_params(labelsize=8)


def finish(axis: Any, title: str, curves: Mapping[str, Curve], over: int | None = None) -> None:
    """Add title, ticks and the legend of a panel, and shade it from step ``over`` on."""
    over_steps(axis, title)
    if over is not None:
        label = f"over-trained from step {over}" if title in TOLD else None
        last = max(steps[-1] for steps, _ in curves.values())
        axis.axvline(over, color="tab:red", linewidth=0.8, linestyle=":", label=label)
        axis.axvspan(over, max(over, last), color="tab:red", alpha=0.08)
    if title == "learning rate":
        # A constant one would otherwise fill the axis with its rounding errors.
        axis.set_ylim(0, 1.1 * max(curves["lr"][1]) or 1)
    if len(axis.get_legend_handles_labels()[1]) > 1:
        axis.legend(fontsize=7)


def points(records: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """The steps and the finite values of one quantity."""
    found = [(record["step"], record.get(name)) for record in records]
    kept = [
        (step, float(value))
        for step, value in found
        if isinstance(value, (int, float)) and math.isfinite(value)
    ]
    return [step for step, _ in kept], [value for _, value in kept]


def smoothed(values: list[float]) -> list[float]:
    """The exponential running mean of the values so far."""
    # Divided by the sum of the weights, so that it does not start at 0, as Adam's moments are.
    mean, weight, out = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):  # a step that was not taken would be in every later mean
            mean, weight = SMOOTH * mean + (1 - SMOOTH) * value, SMOOTH * weight + 1 - SMOOTH
        out.append(mean / weight if weight else math.nan)
    return out


def accuracy_by_timestep(rows: list[dict[str, Any]]) -> bytes:
    """A PNG of the implicit accuracy with intervals, from little noise to much."""
    page, axes = figure(1, 1, 6, 3)
    axis = axes[0, 0]
    values = [row["value"] for row in rows]
    # At least 0, which matplotlib demands: a bound may be rounded to the wrong side of the value.
    low = [max(0.0, row["value"] - row["interval"][0]) for row in rows]
    high = [max(0.0, row["interval"][1] - row["value"]) for row in rows]
    names = []
    for first, end in (row["timesteps"] for row in rows):
        whole = isinstance(end, int)  # numbers of steps; those of a flow lie between 0 and 1
        names.append(f"{first}–{end - 1}" if whole else f"{first:.2g}–{end:.2g}")
    axis.errorbar(names, values, yerr=[low, high], fmt="o", capsize=4)
    axis.axhline(0.5, color="grey", linewidth=0.8, linestyle="--")
    axis.set_xlabel("timestep (little noise → much noise)", fontsize=9)
    axis.set_ylabel("implicit accuracy", fontsize=9)
    return as_png(page)


def gap_histogram(gap_B: Sequence[float], name: str) -> bytes:
    """A PNG of how the gaps of pairs are distributed; ``name`` says what they are measured by."""
    page, axes = figure(1, 1, 5, 3)
    axis = axes[0][0]
    axis.hist(gap_B, bins=min(40, max(5, len(gap_B) // 5)))
    axis.set_xlabel(f"score of the better minus that of the worse ({name})")
    axis.set_ylabel("pairs")
    return as_png(page)
