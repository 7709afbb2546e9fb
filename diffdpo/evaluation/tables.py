"""The tables of a page that stand several policies side by side, of pictures or of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffdpo.evaluation.lines import signed
from diffdpo.evaluation.scores import Between
from diffdpo.report.page import Report

STRENGTHS = (
    "In nats, mean zero: a difference of 0.41 is a win rate of 60 %. The 95 % intervals take what"
    " was made from one prompt together."
)


def between_all(report: Report, games: Between, names: Sequence[str], headline: str) -> None:
    """Win rates between all, their differences and strengths, by the reward on top."""
    report.section("Win rates between all", "Of the row over the column, by prompt.")
    report.table(["", *names], matrix(games, names, headline))
    if gaps := [row for row in games.differences if row["reward"] == headline]:
        report.section("Differences of win rates", "Points, paired by prompt.")
        rows = [[f"{row['policy']} − {row['minus']}", signed(row["difference"], 100)
                 + row["difference"].doubt(0, "0")] for row in gaps]  # fmt: skip
        report.table(["", "difference"], rows, numbers=False)
    if games.strengths:
        prior = games.strengths["prior_std"]
        note = f" With a prior of {prior:g} nats, as one always wins." if prior else ""
        report.section("Bradley–Terry strengths", STRENGTHS + note)
        report.table(
            ["policy", "strength", "interval"],
            [[row["item"], f"{row['strength']:+.3f}", "{:+.3f} … {:+.3f}".format(*row["interval"])]
             for row in games.strengths["items"]],
        )  # fmt: skip


def matrix(games: Between, names: Sequence[str], headline: str) -> list[list[str]]:
    """The win rates of every one over every other, as rows of a table."""
    cells: dict[tuple[str, str], Any] = {}
    for row in games.duels:
        if row["reward"] == headline:
            rate = row["win_rate"]
            low, high = rate.interval
            cells[row["policy"], row["against"]] = share(rate.value, low, high)
            cells[row["against"], row["policy"]] = share(1 - rate.value, 1 - high, 1 - low)
    return [[one, *(cells.get((one, other), "–") for other in names)] for one in names]


def share(value: float, low: float, high: float) -> str:
    """'71.3 [62.0, 79.1]', in percent."""
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
