"""The bar chart: seconds a step, a panel a group."""

from __future__ import annotations

import statistics
from typing import Any

from diffdpo.report.plots import as_png, figure
from scripts.benchmark.results import Result

OURS, OTHERS, BARE = "tab:blue", "tab:gray", "black"
PEERS = ("diffusers", "salesforce", "trl")


def step_chart(results: dict[str, Result]) -> bytes:
    """Median step of every row with its range, and a mark at the bare network's time."""
    measured = [result for result in results.values() if result.wall]
    groups = list(dict.fromkeys(result.group for result in measured))
    page, axes = figure(
        max(1, len(groups)), 1, 8, max(2.0, 0.8 * len(groups) + 0.26 * len(measured))
    )
    for axis, group in zip(axes.flat, groups, strict=False):
        panel(axis, [result for result in measured if result.group == group])
    axes.flat[-1].set_xlabel("seconds an optimizer step (black: the bare network)", fontsize=9)
    return as_png(page)


def panel(axis: Any, results: list[Result]) -> None:
    """The bars of one group, the first row on top."""
    for row, result in enumerate(results):
        median = statistics.median(result.wall)
        span = [[median - min(result.wall)], [max(result.wall) - median]]
        colour = OTHERS if result.name.endswith(PEERS) else OURS
        axis.barh(row, median, xerr=span, color=colour, height=0.7, error_kw={"elinewidth": 1})
        if result.bare_wall:
            bare = statistics.median(result.bare_wall)
            axis.plot([bare, bare], [row - 0.35, row + 0.35], color=BARE, linewidth=2)
    axis.set_yticks(range(len(results)), [result.name for result in results], fontsize=8)
    axis.invert_yaxis()
    axis.tick_params(axis="x", labelsize=8)
