"""The page of an evaluation of language models."""

from __future__ import annotations

from collections.abc import Sequence

from diffdpo.engine.labels import REFERENCE
from diffdpo.evaluation.lines import family_line
from diffdpo.evaluation.tables import between_all
from diffdpo.evaluation.text_findings import (
    TextFindings,
    TextStanding,
    accuracy_line,
    at_equal_length,
    format_lines,
    judges,
    plain,
    unit,
    verdict,
)
from diffdpo.report.page import Report

ROWS = {
    "implicit_accuracy": "implicit accuracy",
    "kl": "KL, nats a text",
    "policy_tokens": "tokens, policy",
    "reference_tokens": "tokens, reference",
}
OF_REWARD = {
    "win_rate": "win rate",
    "length_controlled": "at equal lengths",
    "policy_reward": "policy",
    "reference_reward": "reference",
    "difference": "difference",
}


def compose(
    report: Report, found: TextFindings, texts: list[list[str]], notes: Sequence[str]
) -> None:
    """The page: result, ``notes`` on it, figures, texts side by side."""
    headline(report, found)
    report.notes(notes)
    if found.several:
        policies(report, found)
    for one in found.standings:
        of = f", {one.entrant.label}" if found.several else ""
        if one.rows:
            note = "95 % intervals over prompts; the difference is paired."
            report.section(f"Rewards{of}", f"{note} {family_line(one.rows)}.")
            body = [[n, *(plain(row[f]) for f in OF_REWARD)] for n, row in one.rows.items()]
            report.table(["reward", *OF_REWARD.values()], body)
        report.section(f"Figures{of}", "95 % intervals over prompts.")
        rows = [[title, figure(one, name)] for name, title in ROWS.items()]
        report.table(["", "mean and interval"], rows)
        if one.formats:
            report.section(f"Instructions{of}", "Strict, by rules; 95 % intervals over prompts.")
            report.notes(format_lines(one))
            body = [[n, share.percent()] for n, share in one.formats["by_name"].items()]
            report.table(["instruction", "followed"], body)
        report.section(f"Implicit accuracy{of}", accuracy_line(one))
    report.notes(judges(found))
    report.section(
        "Side by side",
        "The first prompts, chosen by the seed alone; the first reward of each in brackets.",
    )
    heads = [one.entrant.label for one in found.standings] if found.several else ["policy"]
    report.table([REFERENCE, *heads], texts, numbers=False)


def policies(report: Report, found: TextFindings) -> None:
    """The policies side by side."""
    by = f"By {found.reward}; the" if found.reward else "The"
    report.section("Policies", f"{by} same prompts, {found.sampled}.")
    header = ["policy", *(["win rate", "at equal lengths"] if found.reward else [])]
    rows = []
    for one in found.standings:
        cells = [one.entrant.label]
        if found.reward:
            row = one.rows[found.reward]
            cells += [row[name].percent() for name in ("win_rate", "length_controlled")]
        rows.append([*cells, *(figure(one, name) for name in ROWS)])
    report.table([*header, *ROWS.values()], rows)
    if found.reward:
        names = [REFERENCE, *(one.entrant.label for one in found.standings)]
        between_all(report, found.between, names, found.reward)


def figure(one: TextStanding, name: str) -> str:
    """A figure of a policy; a dash where it could not be taken."""
    return plain(one.figures[name]) if name in one.figures else "–"


def headline(report: Report, found: TextFindings) -> None:
    """The first reward's verdict in large letters, or where there is none the accuracy."""
    one = found.standings[0]
    name = f"{one.entrant.label}: " if found.several else ""
    if found.reward is None:
        note = "Share of pairs that the policy orders as labelled."
        report.headline(f"{name}{accuracy_line(one)}", note)
        return
    rate, difference = verdict(one, found.reward)
    row = one.rows[found.reward]
    policy, reference = (plain(row[f"{who}_reward"], 2) for who in ("policy", "reference"))
    report.headline(
        f"{name}{'win' if name else 'Win'} rate {rate}",
        f"At equal lengths {at_equal_length(one, found.reward)}. Reward {policy}, reference"
        f" {reference} ({unit(found.reward)}), difference {difference};"
        f" {found.sampled}.",
    )
