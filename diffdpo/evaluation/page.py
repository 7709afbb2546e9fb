"""The page of an evaluation of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from diffdpo.engine.labels import REFERENCE
from diffdpo.evaluation.findings import (
    NO_CONTROL,
    TIES,
    Findings,
    Standing,
    about,
    above_control,
    accuracy_cell,
    accuracy_line,
    beside,
    verdict,
)
from diffdpo.evaluation.lines import family_line, signed
from diffdpo.evaluation.tables import between_all
from diffdpo.metrics.significance import resolution
from diffdpo.report.page import Report
from diffdpo.report.plots import accuracy_by_timestep

GLOSS = "How often the policy's own reward, log π − log π_ref, is larger for the chosen picture."
SHARE = "Share of pictures on which the policy scores higher, same seeds, ties as 1/2."
DRIFT = (
    "How far the pictures went for their win rate, paired with the reference's of the same seeds."
    " Whiter, more colourful or less diverse pictures than the preference asks for are a sign that"
    " a reward was gamed."
)


def compose(report: Report, found: Findings, page: bytes, notes: Sequence[str]) -> None:
    """Fill the report with result, ``notes`` on it, pictures and tables."""
    first, several = found.policies[0], len(found.standings) > 1
    name = f"{first.entrant.label}: win" if several else "Win"
    report.headline(f"{name} rate {verdict(found, first)}", SHARE)
    report.notes([*notes, f"{resolution(found.prompts)} of a win rate."])
    report.notes([NO_CONTROL] if found.control is None else [])
    if several:
        policies(report, found)
    columns = "chosen and rejected pictures of the pairs show what was preferred"
    report.section("Before and after", f"The same prompts and the same starting noise; {columns}.")
    report.picture(page, "reference beside policy")
    for one in found.standings:
        rewards(report, found, one, several)
    for one in found.standings:
        if one.accuracy:
            title = f"Implicit accuracy{f', {one.entrant.label}' if several else ''}"
            report.section(title, accuracy_line(one))
            report.notes([GLOSS])
            buckets = one.accuracy.by_timestep
            report.plot(partial(accuracy_by_timestep, buckets), "accuracy by timestep")
    report.section("Diversity and drift", DRIFT)
    for one in found.standings:
        report.table(
            [one.entrant.label, "policy, reference, difference"],
            [[key, value] for key, value in about(found, one).items()],
            numbers=False,
        )
    how(report, found)


def policies(report: Report, found: Findings) -> None:
    """The policies side by side."""
    headline = found.judges.headline
    report.section("Policies", f"By {found.judges.named(headline)}; the same prompts and seeds.")
    rows = []
    for one in found.standings:
        gap, best = above_control(found, one), one.rows[headline].get("best_of")
        rows.append([
            one.entrant.label + (" (control)" if one.entrant.is_control else ""),
            found.rate(one).percent(),
            accuracy_cell(one),
            family_line(one.rows).partition(" rewards")[0],
            signed(gap, 100) if gap else "",
            best["win_rate"].percent() if best else "",
        ])  # fmt: skip
    header = ["policy", "win rate", "implicit accuracy", "rewards significant"]
    header += ["points above control", f"against best of {found.best_of or 'n'}"]
    report.table(header, rows)
    names = [REFERENCE, *(one.entrant.label for one in found.standings)]
    between_all(report, found.between, names, headline)
    if found.votes:
        report.section("People", "; ".join(found.votes["lines"]))


def rewards(report: Report, found: Findings, one: Standing, several: bool) -> None:
    """The figures of every reward for one policy."""
    note = f"95 % intervals over prompts; {TIES}. {family_line(one.rows)}."
    report.section(f"Rewards{f', {one.entrant.label}' if several else ''}", note)
    header = ["reward", "win rate", "reference", "policy", "difference", "ties", "p (Holm)"]
    if found.best_of:
        header.append(f"against best of {found.best_of}")
    rows = []
    for name, row in one.rows.items():
        cells = [found.judges.named(name), *reward_row(row)]
        if best := row.get("best_of"):
            cells.append(best["win_rate"].percent())
        rows.append(cells)
    report.table(header, rows)
    report.notes([f"{key}: {line}" for key, line in beside(found, one).items()])


def reward_row(row: dict[str, Any]) -> list[str]:
    """The figures of one reward in the report's table."""
    means = [f"{row[key]:.4g}" for key in ("reference_mean", "policy_mean")]
    tail = [str(row["ties"]), f"{row['p_holm']:.2g}"]
    return [row["win_rate"].percent(), *means, signed(row["difference"]), *tail]


def how(report: Report, found: Findings) -> None:
    """How pictures were sampled and judged."""
    report.section("How it was measured", "Numbers of other samplers or judges do not compare.")
    sampling = ", ".join(f"{name} {value}" for name, value in found.sampled.items())
    rows = [["sampling", sampling], ["ties", TIES], ["diversity", found.tower]]
    for name, identity in found.judges.identities.items():
        words = ", ".join(f"{key} {value}" for key, value in identity.items())
        cut = found.judges.too_long[name]
        rows.append([found.judges.named(name), words + (f"; {cut} prompts cut" if cut else "")])
    report.table(["", ""], rows, numbers=False)
