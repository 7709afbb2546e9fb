"""A ranking as a table for the terminal, as json, and as a forest plot."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from diffdpo.engine.files import atomic_file, write_atomically
from diffdpo.errors import short
from diffdpo.ranking.cells import Codes
from diffdpo.ranking.result import ParameterEstimate, Ranking
from diffdpo.report.plots import figure

TABLE_ROWS = 50
NAME = 60  # letters of an item's name in the table; json has all of it
PLOT_ROWS = 120
PLOT_FORMATS = (".png", ".pdf", ".svg")


def strongest_first(ranking: Ranking) -> Codes:
    """The places of the items, from the strongest to the weakest."""
    return np.argsort(-ranking.strength, kind="stable")


def table(ranking: Ranking, rows: int = TABLE_ROWS) -> str:
    """One line per item, strongest first."""
    level = f"{100 * ranking.method['level']:g} %"
    head = ("rank", "item", "strength", "stderr", f"{level} interval", "ranks", "wins", "games")
    lines = [head]
    rank, order = ranking.rank, strongest_first(ranking)
    for k in order[:rows]:
        low, high = ranking.interval[k]
        best, worst = ranking.rank_interval[k]
        lines.append(
            (
                str(rank[k]),
                short(ranking.items[k], NAME),
                f"{ranking.strength[k]:+.3f}",
                f"{ranking.stderr[k]:.3f}",
                f"{low:+.3f} … {high:+.3f}",
                f"{best}–{worst}",
                f"{ranking.wins[k]:g}",
                f"{ranking.games[k]:g}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            _padded(field, w, k == 1) for k, (field, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    if len(order) > rows:
        text.append(f"… and {len(order) - rows} more")
    return "\n".join([*text, "", *footer(ranking)])


def footer(ranking: Ranking) -> list[str]:
    """The numbers that belong to no item."""
    total = ranking.games.sum() / 2
    lines = [
        f"{len(ranking.items)} items, {total:g} comparisons, log-likelihood"
        f" {ranking.log_likelihood:.3f} nats"
    ]
    if ranking.home is not None:
        lines.append(f"home effect (log-odds for the item shown first): {_in_words(ranking.home)}")
    if ranking.tie is not None:
        symbol = "ν" if ranking.method["ties"] == "davidson" else "ϑ"
        lines.append(
            f"tie parameter {symbol} {ranking.tie_parameter:.4f}; log {symbol}:"
            f" {_in_words(ranking.tie)}"
        )
    if samples := ranking.method.get("variance_samples"):
        lines.append(
            f"standard errors are estimated, from {samples} samples each: off by"
            f" {100 / math.sqrt(2 * samples):.1f} % (one sigma); the intervals allow for it"
        )
    if not ranking.connected:
        lines.append(
            f"not connected: {len(ranking.groups)} groups that no chain of wins links both ways; "
            "their distance comes from the prior"
        )
    return lines


def document(ranking: Ranking) -> dict[str, Any]:
    """The whole ranking for json, strongest first; numbers at full precision."""
    rank = ranking.rank
    items = [
        {
            "item": _plain(ranking.items[k]),
            "strength": float(ranking.strength[k]),
            "stderr": float(ranking.stderr[k]),
            "interval": ranking.interval[k].tolist(),
            "rank": int(rank[k]),
            "rank_interval": ranking.rank_interval[k].tolist(),
            "wins": float(ranking.wins[k]),
            "games": float(ranking.games[k]),
        }
        for k in strongest_first(ranking)
    ]
    extras = {
        name: None if e is None else _estimate(e)
        for name, e in (("home", ranking.home), ("log_tie", ranking.tie))
    }
    return {
        "items": items,
        "log_likelihood": ranking.log_likelihood,
        "tie_parameter": ranking.tie_parameter,
        **extras,
        "method": ranking.method,
        "connected": ranking.connected,
        "groups": (
            []
            if ranking.connected
            else [[_plain(item) for item in group] for group in ranking.groups]
        ),
        "skipped": ranking.skipped,
    }


def write_json(ranking: Ranking, path: Path) -> None:
    """All figures at full precision, as a file."""
    write_atomically(path, json.dumps(document(ranking), indent=2, ensure_ascii=False) + "\n")


def write_plot(ranking: Ranking, path: Path) -> None:
    """A forest plot, strongest on top. Raises UserError where matplotlib is not installed."""
    order = strongest_first(ranking)[:PLOT_ROWS]
    strength, height = ranking.strength[order], np.arange(len(order))[::-1]
    page, ((axes,),) = figure(1, 1, 7, 1.2 + 0.26 * len(order))
    axes.axvline(0, color="0.8", linewidth=1, zorder=0)
    axes.hlines(height, *ranking.interval[order].T, color="#3b6ea5", linewidth=1.8)
    axes.plot(strength, height, "o", color="#12355b", markersize=5)
    names = [_shortened(str(ranking.items[k])) for k in order]
    axes.set_yticks(
        height, [f"{name}  {rank}" for name, rank in zip(names, ranking.rank[order], strict=True)]
    )
    axes.set_ylim(-0.7, len(order) - 0.3)
    more = (
        f", the {len(order)} strongest of {len(ranking.items)}"
        if len(order) < len(ranking.items)
        else ""
    )
    axes.set_xlabel(
        f"strength in nats (mean 0), {100 * ranking.method['level']:g} % interval{more}"
    )
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    with atomic_file(path) as draft:
        page.savefig(draft, dpi=150, format=path.suffix[1:])


def _padded(field: str, width: int, left: bool) -> str:
    return field.ljust(width) if left else field.rjust(width)


def _shortened(name: str) -> str:
    # A dollar sign would start a formula.
    return (name if len(name) <= 40 else name[:39] + "…").replace("$", r"\$")


def _in_words(e: ParameterEstimate) -> str:
    return f"{e.value:+.4f} (stderr {e.stderr:.4f}, {e.interval[0]:+.4f} … {e.interval[1]:+.4f})"


def _estimate(e: ParameterEstimate) -> dict[str, Any]:
    return {"value": e.value, "stderr": e.stderr, "interval": list(e.interval)}


def _plain(item: Any) -> Any:
    """An item as json can hold it; other kinds of items become text."""
    return item if isinstance(item, (str, int, float, bool)) else str(item)
