"""Plots for the report; matplotlib is an optional extra."""

from __future__ import annotations

import io
import math
from typing import Any

from diffdpo.errors import EXTRAS, UserError

CURVES = {
    "loss": ["loss"],
    "implicit accuracy": ["rewards/accuracies"],
    "reward": ["rewards/chosen", "rewards/rejected", "rewards/margins"],
    "squared error": [
        f"error/{who}_{side}" for who in ("policy", "reference") for side in ("chosen", "rejected")
    ],
    "gradient norm": ["grad_norm"],
    "learning rate": ["lr"],
}  # fmt: skip
SMOOTH = 0.9  # weight of the past in the running mean


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


def training_curves(records: list[dict[str, float]]) -> bytes:
    """A PNG with one panel a quantity: single steps as thin lines, running means as thick ones."""
    # A run has the metrics of its own modality and loss; panels of others are left out.
    panels = {title: [n for n in names if n in records[0]] for title, names in CURVES.items()}
    panels = {title: names for title, names in panels.items() if names}
    page, axes = figure(-(-len(panels) // 3), 3, 12, 2.9 * -(-len(panels) // 3))
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    steps = [record["step"] for record in records]
    for axis, (title, names) in zip(axes.flat, panels.items(), strict=False):
        for name in names:
            values = [record[name] for record in records]
            (line,) = axis.plot(steps, values, linewidth=0.6, alpha=0.35)
            axis.plot(
                steps,
                smoothed(values),
                linewidth=1.6,
                color=line.get_color(),
                label=name.split("/")[-1].replace("_", " "),
            )
        axis.set_title(title, fontsize=10)
        if title == "learning rate":
            # A constant one would otherwise fill the axis with its rounding errors.
            axis.set_ylim(0, 1.1 * max(record["lr"] for record in records) or 1)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        if len(names) > 1:
            axis.legend(fontsize=7)
    return as_png(page)


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
    """A PNG of the held-out implicit accuracy with intervals, from little noise to much."""
    page, axes = figure(1, 1, 6, 3)
    axis = axes[0, 0]
    values = [row["value"] for row in rows]
    # At least 0, which matplotlib demands: a bound may be rounded to the wrong side of the value.
    low = [max(0.0, row["value"] - row["interval"][0]) for row in rows]
    high = [max(0.0, row["interval"][1] - row["value"]) for row in rows]
    names = [f"{row['timesteps'][0]}–{row['timesteps'][1] - 1}" for row in rows]
    axis.errorbar(names, values, yerr=[low, high], fmt="o", capsize=4)
    axis.axhline(0.5, color="grey", linewidth=0.8, linestyle="--")
    axis.set_xlabel("timestep (little noise → much noise)", fontsize=9)
    axis.set_ylabel("held-out implicit accuracy", fontsize=9)
    return as_png(page)
