"""What people said of policies in an earlier comparison, beside what rewards say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from diffdpo.annotate.agreement import win_rates
from diffdpo.annotate.votes import Tally, Vote, VoteFile
from diffdpo.engine.console import say
from diffdpo.errors import UserError, short
from diffdpo.evaluation.strengths import strengths

WORTH = {"first": 1.0, "second": 0.0}  # of the first item; a tie and "both bad" are 1/2


def read_votes(path: str, labels: Sequence[str]) -> list[Vote]:
    """The votes in a file that hold and are on two of these policies.

    Raises UserError where there is none.
    """
    file = VoteFile(Path(path).parent)
    file.path = Path(path)
    lines = file.read()
    # A tally has a place for each pair; the numbers in a file may be any, and of several data sets.
    pairs = [(vote.pair, vote.prompt, vote.first, vote.second) for vote in lines]
    place = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    numbered = [replace(vote, pair=place[pair]) for vote, pair in zip(lines, pairs, strict=True)]
    tally = Tally(len(place), numbered)
    say(*(f"note         {note}" for note in [*file.notes, *tally.notes]))
    decided = [vote for vote in tally.votes if vote.decided and vote.kind == "normal"]
    known = set(labels)
    kept = [vote for vote in decided if {vote.first, vote.second} <= known]
    if not kept:
        items = sorted({name for vote in decided for name in (vote.first, vote.second)})
        raise UserError(
            f"--votes {path}: no vote between two of {', '.join(labels)}; it has"
            f" {short(', '.join(items)) or 'no votes'}"
        )
    if left := len(decided) - len(kept):
        say(f"votes        {len(kept):,}; {left:,} on other policies are left out")
    return kept


def figures(votes: Sequence[Vote], labels: Sequence[str], seed: int) -> dict[str, Any]:
    """Win rates, clustered by prompt and by annotator, and strengths, for JSON and as lines."""
    rates = win_rates(votes, seed)
    ordered = sorted(rates.items())
    rows = [{"policy": one, "against": two, "win_rate": rate} for (one, two), rate in ordered]
    people = len({vote.annotator for vote in votes})
    lines = [
        f"{one} over {two}: {rate.percent()}, {rate.n} votes of {people}"
        f" {'person' if people == 1 else 'people'}{rate.doubt(0.5, '50 %')}"
        for (one, two), rate in ordered
    ]
    named = [label for label in labels if any(label in pair for pair in rates)]
    duels = {pair: shares(votes, pair) for pair in rates}
    fit = strengths(named, duels, [vote.prompt for vote in votes]) if len(named) > 2 else None
    return {"table": rows, "strengths": fit, "lines": lines}


def shares(votes: Sequence[Vote], pair: tuple[str, str]) -> np.ndarray:
    """(N,): what the first of two items won of each vote; NaN where a vote is on others."""
    return np.array(
        [
            WORTH.get(vote.choice, 0.5) if (vote.first, vote.second) == pair else np.nan
            for vote in votes
        ]
    )
