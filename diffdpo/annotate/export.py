"""What comes of the votes: pairs to train on, comparisons to rank, and a page about both."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image
from tqdm.auto import tqdm

from diffdpo.annotate.agreement import Agreement, agreement, comparisons, win_rates
from diffdpo.annotate.pairs import Pairs, TextPairs
from diffdpo.annotate.votes import Tally
from diffdpo.data.cells import BadImage
from diffdpo.data.decode import open_image
from diffdpo.engine.files import atomic_files
from diffdpo.errors import UserError, short
from diffdpo.image.sampling.sample import as_png, sheet
from diffdpo.metrics.intervals import Estimate
from diffdpo.report.page import Report

SHARD = 500  # rows in memory, and in a file
SHOWN = 6  # pairs on the page
OURS = ("train-*.parquet", "comparisons.csv", "annotation.json", "annotation.html")


@dataclass(frozen=True)
class Label:
    """P(first ≻ second) of a pair, as (wins + ties/2)/votes."""

    pair: int
    first_wins: float
    votes: int


def labels(tally: Tally, both_bad: str) -> list[Label]:
    """The label of every pair with a vote. ``both_bad`` is "drop" where such votes count for
    nothing, or "tie"."""
    found = []
    for pair, counts in sorted(tally.choices.items()):
        ties = counts["tie"] + (counts["both_bad"] if both_bad == "tie" else 0)
        votes = counts["first"] + counts["second"] + ties
        if votes:
            found.append(Label(pair, (counts["first"] + ties / 2) / votes, votes))
    return found


def check_folder(folder: Path) -> None:
    """Raises UserError where the folder holds other things than an earlier result."""
    if not folder.is_dir():
        return
    ours = {path for pattern in OURS for path in folder.glob(pattern)}
    if others := sorted(path.name for path in folder.iterdir() if path not in ours):
        raise UserError(
            f"--export {folder}: holds {short(', '.join(others))}; choose another folder"
        )


def export(folder: Path, pairs: Pairs, tally: Tally, both_bad: str, seed: int) -> list[str]:
    """Write the result to ``folder``, in the place of an earlier one; returns lines that say what
    it is. Raises UserError where the disk does not take it."""
    check_folder(folder)
    votes, given = tally.votes, labels(tally, both_bad)
    figures = agreement(votes, seed)
    rates = win_rates(votes, seed) if pairs.runs else {}
    texts = isinstance(pairs, TextPairs)
    kept = [label for label in given if not (texts and label.first_wins == 0.5)]
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"agreement    {line}" for line in agreement_lines(figures)]
    lines += [f"win rate     {line}" for line in rate_lines(rates)]
    try:
        with atomic_files(folder) as draft:
            written, unread = write_shards(draft, pairs, kept)
            rows = comparisons(votes)
            (draft / "comparisons.csv").write_text(as_csv(rows), encoding="utf-8")
            content = as_json(figures, rates, written)
            (draft / "annotation.json").write_text(json.dumps(content, indent=2) + "\n")
            page(pairs, figures, rates, given).save(draft / "annotation.html")
            new = {path.name for path in draft.iterdir()}
        for old in folder.glob(OURS[0]):
            if old.name not in new:
                old.unlink()
    except OSError as error:
        raise UserError(f"{folder}: could not be written ({error.strerror}); make room") from error
    lines += [f"left out     {len(given) - len(kept)} pairs of texts are ties"] * (
        len(kept) < len(given)
    )
    lines += [f"left out     {len(unread)} pairs cannot be read ({unread[0]})"] if unread else []
    soft = sum(abs(2 * label.first_wins - 1) for label in kept)
    lines.append(f"pairs        {written}, as many as {soft:.1f} that all agree on; {folder}")
    return lines


def write_shards(folder: Path, pairs: Pairs, kept: Sequence[Label]) -> tuple[int, list[str]]:
    """Write the pairs in the training schema, split train; returns how many, and a line for each
    that cannot be read. In memory are those of one file."""
    rows: list[dict[str, Any]] = []
    unread: list[str] = []
    written = shards = 0
    for place, label in enumerate(tqdm(kept, desc="writing pairs", unit="pair", disable=None)):
        try:
            rows.append(pairs.row(label.pair, label.first_wins, label.votes))
        except BadImage as error:
            unread.append(f"pair {label.pair}: {short(error, 120)}")
        if rows and (len(rows) == SHARD or place == len(kept) - 1):
            Dataset.from_list(rows).to_parquet(folder / f"train-{shards:05d}.parquet")
            written, shards, rows = written + len(rows), shards + 1, []
    return written, unread


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Comparisons as a table for ``fit_bradley_terry``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["first", "second", "outcome", "count"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(
    figures: Agreement, rates: dict[tuple[str, str], Estimate], written: int
) -> dict[str, Any]:
    """The figures as JSON, without what it does not know."""
    people = [
        {
            **{k: v for k, v in vars(one).items() if isinstance(v, (str, int))},
            "median_ms": None if math.isnan(one.median_ms) else one.median_ms,
            "others": one.others,
            "left": one.left.as_dict() if one.left else None,
            "repeats": one.repeats.as_dict() if one.repeats else None,
        }
        for one in figures.people
    ]
    return {
        "votes": figures.votes,
        "pairs": figures.pairs,
        "pairs_written": written,
        "agreement": figures.share.as_dict() if figures.share else None,
        "alpha": asdict(figures.alpha),
        "annotators": people,
        "win_rates": [
            {"first": first, "second": second, **rate.as_dict()}
            for (first, second), rate in rates.items()
        ],
    }


def agreement_lines(figures: Agreement) -> list[str]:
    """The agreement in a line or two, to print and to head the page."""
    people = sum(one.n > 0 for one in figures.people)  # others have only skipped
    first = f"{figures.votes} votes of {people} {'person' if people == 1 else 'people'}"
    first += f" on {figures.pairs} pairs"
    if figures.share is None:
        return [f"{first}; no pair has two votes yet"]
    return [
        first,
        f"{share(figures.share)} of votes on the same pair are alike, {figures.shared} pairs;"
        f" Krippendorff's alpha {figures.alpha}",
    ]


def share(estimate: Estimate) -> str:
    """A share over pairs, with its interval."""
    low, high = (100 * bound for bound in estimate.interval)
    return f"{100 * estimate.value:.0f} % [{low:.0f}, {high:.0f}]"


def rate_lines(rates: dict[tuple[str, str], Estimate]) -> list[str]:
    """A line for every two runs."""
    return [
        f"{first} over {second}: {rate.percent()} of {rate.n} votes{rate.doubt(0.5, '50 %')}"
        for (first, second), rate in rates.items()
    ]


def page(
    pairs: Pairs,
    figures: Agreement,
    rates: dict[tuple[str, str], Estimate],
    given: Sequence[Label],
) -> Report:
    """The page about the votes."""
    report = Report("What people chose")
    head, *notes = agreement_lines(figures)
    report.headline(head, f"Of {pairs.what}.")
    report.notes(notes)
    if rates:
        report.section("Win rates", "Ties as 1/2; 95 % intervals over prompts and people.")
        rows = [[a, b, rate.percent(), str(rate.n)] for (a, b), rate in rates.items()]
        report.table(["run", "against", "win rate", "votes"], rows)
    report.section("People", "Quick choices took less than 0.3 s; repeats are pairs shown again.")
    header = ["person", "choices", "skipped", "quick", "median", "chose left", "repeats", "others"]
    report.table(header, [person_row(one) for one in figures.people])
    if given and not isinstance(pairs, TextPairs):
        sheets(report, pairs, given)
    return report


def person_row(one: Any) -> list[str]:
    """One annotator's row of the table."""
    median = "–" if math.isnan(one.median_ms) else f"{one.median_ms / 1000:.1f} s"
    shares = [f"{share(e)} of {e.n}" if e else "–" for e in (one.left, one.repeats)]
    others = "–" if one.others is None else f"{100 * one.others:.0f} %"
    return [one.name, str(one.n), str(one.skipped), str(one.fast), median, *shares, others]


def sheets(report: Report, pairs: Pairs, given: Sequence[Label]) -> None:
    """Pictures that people agree on most, and those on which they are divided."""
    clear = sorted(given, key=lambda label: (-abs(label.first_wins - 0.5), -label.votes))
    divided = [label for label in reversed(clear) if label.votes > 1]
    groups = {"Chosen and rejected": clear[:SHOWN], "Divided": divided[:SHOWN]}
    for title, group in groups.items():
        rows = [row for label in group if (row := pictures_of(pairs, label)) is not None]
        if rows and not (title == "Divided" and group == clear[:SHOWN]):
            report.section(title, "The one with more votes stands on the left.")
            report.picture(as_png(sheet(rows, ["more votes", "fewer"])), title.lower())


def pictures_of(pairs: Pairs, label: Label) -> tuple[str, list[Image.Image]] | None:
    """A row of a sheet: the prompt, the picture with more votes and the other one; None where they
    are no pictures."""
    order = (0, 1) if label.first_wins >= 0.5 else (1, 0)
    try:
        return pairs.prompt(label.pair), [
            open_image(pairs.media(label.pair, side).body) for side in order
        ]
    except BadImage:
        return None
